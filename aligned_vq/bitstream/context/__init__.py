"""Context models: tables conditioned on what both ends already know, and coding under them."""
