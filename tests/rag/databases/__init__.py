"""Databases of passages: the same results from each of them."""
