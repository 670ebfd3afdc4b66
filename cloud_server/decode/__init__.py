"""Turns a client's messages into images for the engine: embeddings or codebook indices."""
