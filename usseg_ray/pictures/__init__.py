"""Pictures and charts of a trial."""
