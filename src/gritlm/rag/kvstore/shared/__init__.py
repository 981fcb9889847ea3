"""The shared tier: KV blocks on storage that several machines reach."""
