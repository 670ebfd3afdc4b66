"""Language engines: image embeddings and a prompt in, a stream of text out."""
