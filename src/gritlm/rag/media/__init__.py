"""Passages that are images and sounds: pages of PDF files, pictures, windows of recordings."""
