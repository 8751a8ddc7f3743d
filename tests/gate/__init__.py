"""What takes too long for every change: `make gate` runs it, and keeps what came of it."""
