"""Time, memory and sizes; one command each."""
