"""What to build from: config that people edit (TOML), lockfiles that only a command writes (JSON)."""
