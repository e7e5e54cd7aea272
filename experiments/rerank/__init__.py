"""What reranking by token memories is worth on Cranfield: which similarity, which weight, what codes
lose.
"""
