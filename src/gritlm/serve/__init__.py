"""One process, one set of weights: chats, embeddings, reranking and cached RAG over HTTP."""
