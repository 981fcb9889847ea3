"""Word, PowerPoint, Excel and EPUB files: text and tables as Markdown."""
