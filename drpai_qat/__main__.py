"""`python -m drpai_qat` is `drpai-qat`."""

import sys

from drpai_qat.cli.main import main

sys.exit(main())
