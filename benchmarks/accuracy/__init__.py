"""Accuracy of the codec, and agreement with other implementations; one command each."""
