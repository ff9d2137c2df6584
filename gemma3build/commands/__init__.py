"""The commands, one module for each group; ``cli`` puts them together."""
