"""How inputs are varied: settings at their extremes, and messages of the wire."""
