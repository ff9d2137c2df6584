"""A release directory and its records."""
