"""Reading model files, which may be broken or hostile."""
