"""Training of the prefix for another modality: depth or infrared through a codec made for rgb."""
