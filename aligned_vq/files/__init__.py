"""Atomic replacement of files and folders, and validated reading of YAML and JSON."""
