"""Documents of images and sound."""
