"""The table of speeds: this package next to other libraries, each ratio from a single run."""
