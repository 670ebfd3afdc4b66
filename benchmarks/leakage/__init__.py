"""What a small decoder recovers of the pictures from what the cloud holds."""
