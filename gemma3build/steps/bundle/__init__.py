"""The image with MediaPipe's bundler."""
