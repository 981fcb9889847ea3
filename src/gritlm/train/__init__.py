"""Training: both objectives in one run."""
