"""Broken questions, restarts and long runs against real services, a command each."""
