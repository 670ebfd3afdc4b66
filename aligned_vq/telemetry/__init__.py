"""Logs and traces of every process that serves."""
