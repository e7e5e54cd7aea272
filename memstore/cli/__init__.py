"""The `memstore` command.

Applications add their commands through the entry-point group `memstore.commands`.
"""
