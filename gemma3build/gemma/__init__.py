"""Gemma 3: its architecture, checkpoint files, prompts, questions."""
