"""Processes, load, provenance and tables that benchmarks and tests share."""
