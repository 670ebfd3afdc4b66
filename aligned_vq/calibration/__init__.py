"""A usable codec without gradients, from a checkpoint and some images."""
