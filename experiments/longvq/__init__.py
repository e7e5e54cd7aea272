"""LongVQ's claims, tried small."""
