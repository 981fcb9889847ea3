"""Adapters: merged into the weights, or over a base model that several of them share."""
