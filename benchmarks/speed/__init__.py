"""Time, memory and sizes, a command each."""
