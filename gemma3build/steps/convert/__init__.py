"""The image with torch and the converter."""
