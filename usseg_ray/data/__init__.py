"""From shards to batches: `shards` -> `reading` (decode, transforms) -> `reader`."""
