"""Crash consistency: `kill -9` at random moments of writing, `python -m benchmarks.kills.kills`."""
