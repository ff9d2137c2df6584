"""The command line: Typer commands, and all output."""
