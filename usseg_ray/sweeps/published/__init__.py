"""Publications under their own protocols: their numbers, and runs of our own beside them."""
