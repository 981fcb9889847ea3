"""Screenshots of the web page, made from a real server with answers that are checked."""
