"""Structured output: formats of a text, their grammars, and the tokens that a grammar allows."""
