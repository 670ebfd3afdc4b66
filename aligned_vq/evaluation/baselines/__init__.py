"""Other ways to send an image, measured beside the codec."""
