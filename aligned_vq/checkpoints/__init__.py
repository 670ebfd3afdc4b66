"""Checkpoints in Hugging Face format: opened tensor by tensor, and named by their contents."""
