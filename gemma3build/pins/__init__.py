"""What to build from: intent that people edit (TOML), locks that only a command writes (JSON)."""
