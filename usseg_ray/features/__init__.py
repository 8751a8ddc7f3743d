"""From batches to patch tokens: backbones, the featuriser, and the store of what was computed."""
