"""Two networks side by side: parameters, layers, outputs, and where they part; see docs/compare.md."""
