"""What do MELODI's two memories hold, at what cost in perplexity, and is the queue used?"""
