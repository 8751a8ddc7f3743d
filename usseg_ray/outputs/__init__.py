"""What becomes of segmentations: formats, the tiles of large images, and which files are done."""
