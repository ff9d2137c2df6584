"""Hand a recorded release to the Hub: what must hold, its model card, one commit, and a look back."""
