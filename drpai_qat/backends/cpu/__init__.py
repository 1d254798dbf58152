"""TVM on a CPU: targets, code generation, memory, kernel objects and their cache, cross compilers, bundles."""
