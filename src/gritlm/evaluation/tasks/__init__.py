"""Local tasks: folders with rows, their layouts, how they are found, and suites of them."""
