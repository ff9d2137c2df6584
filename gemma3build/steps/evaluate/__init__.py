"""The image with the runtimes that a phone has."""
