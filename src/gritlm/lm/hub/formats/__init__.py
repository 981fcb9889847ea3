"""Forms of a model for other programs: a folder for chats, GGUF, a model card, an upload."""
