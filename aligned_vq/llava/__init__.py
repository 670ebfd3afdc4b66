"""LLaVA checkpoints: tensors read lazily, their configuration, and packed conversations."""
