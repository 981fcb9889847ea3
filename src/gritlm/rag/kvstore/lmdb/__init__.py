"""The index of a store in LMDB: entries, environments, readers and transactions."""
