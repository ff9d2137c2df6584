"""Records of every document that processes exchange or that outlives one; no I/O."""
