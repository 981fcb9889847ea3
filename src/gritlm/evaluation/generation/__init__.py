"""The generation half: lm-eval's tasks, answered by our engine."""
