"""All kinds of faults: importing this registers them, in the order of the table."""

from tests.faults import cluster, damage, kills, lives, partition, tracking, workers

__all__ = ["cluster", "damage", "kills", "lives", "partition", "tracking", "workers"]
