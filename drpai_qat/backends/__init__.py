"""The ways to deploy a canonical model, side by side and independent of each other."""
