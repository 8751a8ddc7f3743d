"""From files as they lie to a prepared set."""
