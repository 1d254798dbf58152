"""TFLite: the canonical model as a file for LiteRT and microcontrollers, with every trained range kept."""
