"""From what was asked to ranked trials: plans, Ray Tune over them, finalists, answers."""
