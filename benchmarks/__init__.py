"""Benchmarks: one command each, figures as JSON."""
