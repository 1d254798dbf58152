"""The canonical QDQ graph as code reads it: nodes, grids, ranges, rewrites. Knows nothing of TVM."""
