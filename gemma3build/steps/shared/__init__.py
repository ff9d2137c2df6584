"""What steps of several images use."""
