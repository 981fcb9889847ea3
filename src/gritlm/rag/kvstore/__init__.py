"""The store of key/value blocks: append-only segments, an LMDB index, a byte budget."""
