"""Measurements of speed, memory and endurance; each script starts by `python -m`."""
