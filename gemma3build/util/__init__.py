"""What every room uses and nothing of which knows Gemma, releases or Docker."""
