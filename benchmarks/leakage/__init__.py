"""Reconstruction of images from the features that the cloud holds."""
