"""A run: processes, optimizer, checkpoints, metrics, signals."""
