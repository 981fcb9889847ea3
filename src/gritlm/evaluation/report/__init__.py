"""One report in three files: for machines, for terminals and mails, for a browser."""
