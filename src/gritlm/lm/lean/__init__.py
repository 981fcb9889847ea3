"""Forward pass with few operations on a CPU, for families of decoders that it knows."""
