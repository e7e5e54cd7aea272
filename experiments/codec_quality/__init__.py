"""Which codec loses least on real memories, in domain and out."""
