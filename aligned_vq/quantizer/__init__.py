"""Vector quantization: features to codebook indices and back."""
