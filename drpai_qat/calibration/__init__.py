"""From a float model, or one that training left without some ranges, and data to the canonical QDQ graph."""
