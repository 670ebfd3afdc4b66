"""EdgeVL: a small image encoder for the device, distilled from a CLIP-like teacher.

Cai et al., "Self-Adapting Large Visual-Language Models to Edge Devices across Visual Modalities",
ECCV 2024. One student encodes colour images and images of other modalities; it is trained with
quantization in its graph and runs on the device as an int8 ONNX graph.
"""
