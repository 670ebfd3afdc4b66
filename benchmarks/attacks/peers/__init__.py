"""Hostile clients and files, and probes of what good clients see meanwhile."""
