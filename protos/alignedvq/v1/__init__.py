"""Generated code of `alignedvq.v1`; see `inference.proto` for every remark."""
