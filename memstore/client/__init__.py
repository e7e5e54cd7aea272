"""Clients of a memstore server over gRPC: the verbs, results and errors of a `Store`.

Does not: know how a store keeps its data.
"""

from memstore.client.aio import AsyncClient
from memstore.client.sync import Client

__all__ = ["AsyncClient", "Client"]
