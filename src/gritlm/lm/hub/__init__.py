"""Checkpoints: loading, adapters, saving, and the default model."""
