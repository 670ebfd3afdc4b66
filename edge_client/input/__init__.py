"""What a client accepts as an image: files and arrays, payloads made before, images sent before."""
