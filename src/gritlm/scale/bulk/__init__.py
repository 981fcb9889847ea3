"""Bulk work on Ray Data: embedding and indexing of many files, in parts that are committed."""
