"""Generated from `proto/memstore/v1`; committed, never edited."""
