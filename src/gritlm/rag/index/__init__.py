"""The index of passages: vectors, words and metadata in LanceDB."""
