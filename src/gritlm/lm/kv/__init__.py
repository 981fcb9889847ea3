"""Key/value state: blocks as values, rotary positions, decoding caches, memory of sequences."""
