"""Logs and traces of all serving processes."""
