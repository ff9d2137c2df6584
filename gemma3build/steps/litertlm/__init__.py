"""The image with LiteRT-LM's builder."""
