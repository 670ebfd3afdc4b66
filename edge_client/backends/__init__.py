"""What runs the edge half of the model: ONNX Runtime or torch."""
