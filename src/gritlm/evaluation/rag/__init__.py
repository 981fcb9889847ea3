"""Question answering over passages: recomputed, from cached KV blocks, and without passages."""
