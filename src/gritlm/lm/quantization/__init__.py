"""Quantised weights: int8 and int4 on a CPU, other formats through transformers on a GPU."""
