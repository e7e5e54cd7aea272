"""Encoding jobs: a corpus in, one committed version out, exactly once, on one machine or a Ray
cluster.
"""
