"""Hard negatives, found by the model itself."""
