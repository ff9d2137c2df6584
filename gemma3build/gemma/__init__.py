"""What Gemma 3 is: architecture, checkpoint files, prompts, questions."""
