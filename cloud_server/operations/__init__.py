"""Observability: HTTP endpoints, metrics, logs and the record of each question."""
