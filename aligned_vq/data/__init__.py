"""What training and evaluation read: examples by index, from several formats."""
