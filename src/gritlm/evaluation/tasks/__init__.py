"""Local tasks: the layouts of their folders, their discovery, and suites of tasks."""
