"""What a compilation tells."""
