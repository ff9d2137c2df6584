"""Turning results into a release directory: checksums, manifest, terms."""
