"""Generated code of the `alignedvq` protocol, by version."""
