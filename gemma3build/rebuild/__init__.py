"""Compares two releases, and keeps what a rebuild needs."""
