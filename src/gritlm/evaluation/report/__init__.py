"""Report files of an evaluation: JSON, Markdown and HTML."""
