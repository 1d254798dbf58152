"""Does the deployed network compute what was trained: against onnxruntime, per output and per quantized tensor."""
