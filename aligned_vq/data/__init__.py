"""Data sources of training and evaluation, with random access to examples."""
