"""Mutated questions, misbehaving clients, restarts and long runs; one command each."""
