"""How a language model writes a proposal: what it is shown, how it answers, how that is read."""
