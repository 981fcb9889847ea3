"""Documents over HTTP: uploads, search, and answers from one store."""
