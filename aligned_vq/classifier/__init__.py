"""Classifier bundles: an image encoder of a device and text embeddings; no torch."""
