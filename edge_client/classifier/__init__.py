"""Recognition on the device: any labels, several kinds of cameras, and no network."""
