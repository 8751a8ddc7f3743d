"""From cluster scores to numbers: prediction, matching, metrics, criteria without labels."""
