"""The edge half as an ONNX graph: written here with `onnx`, run by the edge with ONNX Runtime."""
