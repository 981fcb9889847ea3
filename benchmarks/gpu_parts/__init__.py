"""Parts of the GPU benchmark: correctness of what only a GPU runs, and its speed."""
