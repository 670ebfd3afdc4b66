"""From a client's payload to image embeddings."""
