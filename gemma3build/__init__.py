"""Reproducible on-device releases of Gemma 3, built in pinned containers."""

__version__ = "0.1.0"
