"""Language engines: prompt tokens and an image in, a stream of text out."""
