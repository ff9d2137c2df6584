"""Reads a release without trusting it."""
