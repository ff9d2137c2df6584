"""Running a plan: Docker, images, a cache keyed by content. Nothing here knows about models."""
