"""``python -m gemma3build``."""

from gemma3build.cli import main

main()
