"""Accuracy of deployed networks on the user's data."""
