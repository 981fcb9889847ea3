"""Images and sounds in rows: their parts, and texts in their place where no model is loaded."""
