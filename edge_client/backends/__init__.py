"""Backends that run the edge half of the model: ONNX Runtime and torch."""
