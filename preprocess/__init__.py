"""QAT graph -> canonical QDQ graph. Knows onnx, onnx-graphsurgeon and numpy, nothing of TVM."""

from preprocess.canonicalization import Preprocessed, preprocess
from preprocess.passlog import Note
from preprocess.reference_form import reference_model
from preprocess.validate import validate

__all__ = ["Note", "Preprocessed", "preprocess", "reference_model", "validate"]
