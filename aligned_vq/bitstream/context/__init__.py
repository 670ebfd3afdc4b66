"""Context coding: entropy tables conditioned on symbols that are already decoded."""
