"""The model room: weights, views, embeddings, key/value blocks and text."""
