"""Attacks on running services, and their effect on well-behaved clients."""
