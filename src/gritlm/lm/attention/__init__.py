"""Attention: packed and ragged texts, block masks, and views of one set of weights."""
