"""The feature codec of both sides: specification, manifest, bundle files, encoding, decoding."""
