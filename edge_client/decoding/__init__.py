"""Encoded images are decoded in a process each, with limits of time and memory."""
