"""Benchmarks: one command each, with results as JSON."""
