"""Hostile clients and files, and probes of the service under attack."""
