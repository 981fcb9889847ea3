"""Reuse of KV blocks: their provider, the reuse check, and recomputation."""
