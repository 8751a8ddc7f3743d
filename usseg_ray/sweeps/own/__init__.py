"""Photographs of one's own, without labels: from a folder to a model, masks and typed results."""
