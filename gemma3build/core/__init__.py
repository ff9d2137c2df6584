"""What host and containers share, from the standard library alone."""
