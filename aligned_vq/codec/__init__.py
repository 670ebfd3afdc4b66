"""The codec as both sides hold it: specification, manifest, bundle, and features to payloads."""
