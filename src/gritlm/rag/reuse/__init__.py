"""Reuse of key/value blocks: where they come from, the check that it is right, recomputation."""
