"""QAT graph -> canonical QDQ graph. Knows onnx, onnx-graphsurgeon and numpy, nothing of TVM."""

from preprocess.passlog import Note
from preprocess.pipeline import Preprocessed, preprocess

__all__ = ["Note", "Preprocessed", "preprocess"]
