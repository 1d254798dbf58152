"""Ground floor: errors, quantization parameters, tensor descriptions, progress, text, processes, signals."""
