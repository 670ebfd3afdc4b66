"""Training the codec end to end: data, objective, loop and checkpoints."""
