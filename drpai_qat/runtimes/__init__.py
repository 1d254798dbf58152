"""Everything that runs a model: the reference in onnxruntime, a deployed network here or on a board."""
