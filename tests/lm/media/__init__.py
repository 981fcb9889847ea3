"""Tests of images and sound."""
