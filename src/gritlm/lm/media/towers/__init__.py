"""Small frozen towers for images and sound, and the projectors that are trained for them."""
