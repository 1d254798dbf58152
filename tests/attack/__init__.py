"""Hostile files: mutants of the models in tests/models, compiled by the public command in processes of their own."""
