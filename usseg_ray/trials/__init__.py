"""One trial: what it runs, where, and what it leaves."""
