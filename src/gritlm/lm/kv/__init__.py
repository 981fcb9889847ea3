"""Keys and values: KV blocks, rotary positions, decoding caches and KV slots."""
