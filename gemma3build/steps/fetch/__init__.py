"""The image that brings checkpoints in."""
