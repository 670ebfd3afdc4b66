"""LLaVA checkpoints: configuration, lazily read tensors, and packed conversations."""
