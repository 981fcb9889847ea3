"""Trained module: loading, adapters, hidden states, heads."""
