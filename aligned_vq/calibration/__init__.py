"""Construction of a codec from a checkpoint and example images, without gradients."""
