"""Steps of decoding on a CPU, compiled by numba."""
