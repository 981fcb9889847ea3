"""Attention: kernels without padding, block masks, and views of a model."""
