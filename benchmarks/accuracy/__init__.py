"""Accuracy of the codec and of other implementations beside it, a command each."""
