"""The trained module: how it is built, its adapters, its hidden states and heads."""
