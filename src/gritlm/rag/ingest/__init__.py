"""Documents in: files and rows to text, text to passages, passages to vectors and blocks."""
