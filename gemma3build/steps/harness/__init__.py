"""The image with EleutherAI's evaluation harness."""
