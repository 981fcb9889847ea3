"""Evaluation of embeddings with mteb: its own tasks by name, and local folders as mteb tasks."""
