"""The commands of `aligned-vq`, by what they are about."""
