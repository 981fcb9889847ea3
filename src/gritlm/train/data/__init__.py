"""Training data: files to examples, examples to batches."""
