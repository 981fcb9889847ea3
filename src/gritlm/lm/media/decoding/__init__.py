"""Decoding of images and sounds from outside, in processes of their own."""
