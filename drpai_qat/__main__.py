"""`python -m drpai_qat` is `drpai-qat`."""

from drpai_qat.cli.program import drpai_qat

if __name__ == "__main__":
    drpai_qat()
