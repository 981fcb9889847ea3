"""Key/value state on disk and in memory: append-only arenas, an index, a budget."""
