"""The memory service: gRPC and HTTP faces on one `memstore.Store`, in one process."""
