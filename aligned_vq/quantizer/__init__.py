"""From features to codebook indices and back."""
