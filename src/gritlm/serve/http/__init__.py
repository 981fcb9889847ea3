"""HTTP around every request: keys, bodies, connections, logs."""
