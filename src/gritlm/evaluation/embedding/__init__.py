"""How well a model embeds, by mteb: its own tasks by name, and local folders as tasks of its."""
