"""Evaluation of generation with lm-eval: its tasks, computed by our engine."""
