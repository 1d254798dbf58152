"""What a file is, told before it is compiled: who made it, what is trained in it, what will become of it."""
