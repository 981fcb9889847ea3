"""Evaluation with images and sound: search between them and texts, and questions about images."""
