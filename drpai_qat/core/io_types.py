"""What `--io` may say of a network's inputs and outputs; no import, as options are read before numpy is."""

FLOAT32, SOURCE, INT8 = "float32", "source", "int8"
IO_TYPES = (FLOAT32, SOURCE, INT8)
