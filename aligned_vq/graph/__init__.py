"""Export of the edge half as an ONNX graph, which the edge runs with ONNX Runtime."""
