"""Key/value state: blocks as values, rotary positions, decoding caches, memory for many sequences."""
