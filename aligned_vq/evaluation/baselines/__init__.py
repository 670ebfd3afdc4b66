"""Other ways to send an image, for comparison with the codec."""
