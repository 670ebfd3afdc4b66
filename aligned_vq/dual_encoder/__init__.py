"""Dual encoders such as CLIP and SigLIP: images and texts in one space."""
