"""Steps in the image with the runtimes that a phone has."""
