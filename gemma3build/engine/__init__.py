"""Running a plan: Docker, images, a store keyed by content. Nothing here knows about models."""
