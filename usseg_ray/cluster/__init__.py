"""Ray: joining it, what it has room for, streaming images and computing features on it."""
