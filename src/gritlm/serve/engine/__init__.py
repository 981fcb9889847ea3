"""The engine: one thread owns the model and runs requests in batches; no HTTP in it."""
