"""What reranking by token memories is worth on Cranfield, by similarity, weight and codec."""
