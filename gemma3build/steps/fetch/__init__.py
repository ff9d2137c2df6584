"""Steps that fetch, import and check checkpoints."""
