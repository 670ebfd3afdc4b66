"""Models of LLaVA-1.5's real dimensions with random weights."""
