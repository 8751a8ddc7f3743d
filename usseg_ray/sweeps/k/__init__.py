"""How many clusters: the trials that ask it, and the verdict."""
