"""The commands: one module for each, and how a command ends."""
