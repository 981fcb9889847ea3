"""HTTP layers around every request: keys, body limits, connections, logs."""
