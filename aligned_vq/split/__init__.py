"""The vision tower cut into prefix and suffix, and the links that rebuild the residual stream."""
