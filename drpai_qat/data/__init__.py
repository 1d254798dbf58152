"""Inputs for networks: samples."""
