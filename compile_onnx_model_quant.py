#!/usr/bin/env python3
"""Compile a QAT-trained ONNX model into an INT8 deployment network.

usage: python compile_onnx_model_quant.py MODEL.onnx -a -m pytorch|tensorflow [-o DIR] [-s SHAPE] ...
The same as `drpai-qat compile`; --help lists the options.
"""

from drpai_qat.cli.program import compile_onnx_model_quant

if __name__ == "__main__":
    compile_onnx_model_quant()
