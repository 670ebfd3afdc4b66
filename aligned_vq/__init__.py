"""AlignedVQ feature coding for vision-language models split between an edge and a cloud."""

__version__ = "0.1.0"
