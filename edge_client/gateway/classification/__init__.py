"""`/v1/classify`: labels of an image, on this machine alone."""
