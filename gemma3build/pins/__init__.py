"""What to build from: configuration that people edit (TOML), locks that only a command writes (JSON)."""
