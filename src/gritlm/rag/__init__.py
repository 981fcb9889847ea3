"""Cached RAG: documents, their index, their key/value state on disk, and answers from it."""
