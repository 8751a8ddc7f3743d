"""All kinds of faults: importing this registers them, in the order of the table."""

from tests.faults import cluster, damage, kills, lives, partition, tracking, workers

ALL = (kills, cluster, partition, lives, tracking, workers, damage)
LIGHT = (workers.__name__, damage.__name__)
"""Kinds that take neither Ray nor a tracking server."""
