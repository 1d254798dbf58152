"""TensorFlow, tf_keras and tfmot, imported the one way that works for QAT.

tfmot trains Keras 2 models only, which TensorFlow brings as tf_keras since it uses Keras 3 itself; TF_USE_LEGACY_KERAS
must be set before TensorFlow is imported. Import them from here and nothing needs to be set by hand.
"""

from __future__ import annotations

import os
import sys

os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # else every start lists the GPU libraries it looked for

_stderr = os.dup(2)
try:
    with open(os.devnull, "w") as _sink:
        os.dup2(_sink.fileno(), 2)  # some of these lines come before any log level is read
        import h5py
        import tensorflow as tf
        import tensorflow_model_optimization as tfmot
        import tf_keras as keras
except ImportError as error:
    os.dup2(_stderr, 2)
    sys.exit(f"{error}: the sample needs TensorFlow with its tools: pip install '.[tensorflow]' (Python 3.11 or 3.12)")
finally:
    os.dup2(_stderr, 2)
    os.close(_stderr)

tf.get_logger().setLevel("ERROR")

__all__ = ["h5py", "keras", "tf", "tfmot"]
