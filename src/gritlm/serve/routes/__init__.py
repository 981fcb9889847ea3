"""The paths of the server: each takes a body, calls one function, and hands its answer on."""
