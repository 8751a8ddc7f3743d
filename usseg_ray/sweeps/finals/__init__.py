"""Finalists: which trials become one, what is trained and scored for them, where that is kept."""
