"""Databases other than LanceDB that hold the passages of an index."""
