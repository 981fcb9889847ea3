"""What a model can do, measured: both halves of one checkpoint in one report."""
