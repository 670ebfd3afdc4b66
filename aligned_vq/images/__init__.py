"""The one way from an image file, array or buffer to a vision tower's input."""
