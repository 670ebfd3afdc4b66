"""What a client accepts as an image: image sources, payloads, and images it has sent before."""
