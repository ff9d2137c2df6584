"""``python -m gemma3build``."""

from gemma3build.cli.app import main

main()
