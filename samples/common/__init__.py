"""What the samples of both frameworks share: the digits with their split, and step 3, compiling. Needs no framework."""
