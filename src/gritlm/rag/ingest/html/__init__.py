"""HTML to Markdown in linear time: tokens, tree, tables, text."""
