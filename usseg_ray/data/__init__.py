"""From files to batches: `datasets` -> `shards` -> `reading` (decode, transforms) -> `pipeline`."""
