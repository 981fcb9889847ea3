"""Rows of training, made of passages: questions, filters, hard negatives."""
