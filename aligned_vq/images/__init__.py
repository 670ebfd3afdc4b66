"""Loading of images and their preparation for the vision tower, used by all programs."""
