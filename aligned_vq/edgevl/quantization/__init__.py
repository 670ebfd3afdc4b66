"""Training with quantization in the graph, and int8 ONNX graphs."""
