"""The reference dual encoder: blueprint and recipe of a small CLIP that knows the rooms."""
