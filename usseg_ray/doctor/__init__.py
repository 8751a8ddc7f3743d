"""What `doctor` looks at: each check is a function of what it looks at, and returns findings."""
