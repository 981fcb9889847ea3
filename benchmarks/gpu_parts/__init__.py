"""Parts of the GPU benchmark: correctness and speed of the code that only a GPU runs."""
