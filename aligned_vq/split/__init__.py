"""The vision tower in two halves, and what carries the residual stream between them."""
