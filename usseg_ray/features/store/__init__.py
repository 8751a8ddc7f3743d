"""Features of images under a frozen backbone: computed once, read by every trial."""
