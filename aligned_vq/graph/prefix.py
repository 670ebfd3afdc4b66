"""The vision prefix as ONNX nodes: what `VisionPrefix` computes, on rows `[B * N, D]`.

B may be 0: then every node has nothing to do.
"""

from __future__ import annotations

from dataclasses import dataclass

from aligned_vq.graph.builder import GraphBuilder
from aligned_vq.graph.linear import Linear
from aligned_vq.llava.tower_config import VisionConfig
from aligned_vq.types import SplitPoint


@dataclass(frozen=True)
class PrefixWriter:
    """Adds a tower's layers, named as in `edge.safetensors`, to a graph."""

    graph: GraphBuilder
    config: VisionConfig
    linear: Linear

    def prefix(self, pixels: str, split: SplitPoint) -> tuple[str, str]:
        """Features and residual stream, rows each, of normalised pixels `[B, 3, H, W]`."""
        x = self._norm(self._embeddings(pixels), "pre_layrnorm")
        for number in range(split.block):
            x = self._attended(x, self._norm(x, f"encoder.layers.{number}.layer_norm1"), number)
            x = self._perceived(x, number)
        if split.norm == "pre":
            return x, x
        features = self._norm(x, f"encoder.layers.{split.block}.layer_norm1")
        if split.norm == "ln1":
            return features, x
        x = self._attended(x, features, split.block)
        return self._norm(x, f"encoder.layers.{split.block}.layer_norm2"), x

    def _embeddings(self, pixels: str) -> str:
        graph, config = self.graph, self.config
        patch, channels = config.patch_size, config.num_channels
        side = config.image_size // patch
        ends = graph.ints(side * patch, side * patch)
        whole = graph.add("Slice", pixels, graph.ints(0, 0), ends, graph.ints(2, 3))
        cells = graph.add("Reshape", whole, graph.ints(-1, channels, side, patch, side, patch))
        cells = graph.add("Transpose", cells, perm=[0, 2, 4, 1, 3, 5])
        rows = graph.add("Reshape", cells, graph.ints(-1, channels * patch * patch))
        kernel = graph.weight("prefix.embeddings.patch_embedding.weight")
        embedded = graph.add("Gemm", rows, graph.add("Flatten", kernel, axis=1), transB=1)
        embedded = graph.add("Reshape", embedded, graph.ints(-1, side * side, config.hidden_size))
        # The class token comes before the patches: zeros in its place, and it with the positions.
        embedded = graph.add("Pad", embedded, graph.ints(0, 1, 0, 0, 0, 0))
        first = graph.weight("prefix.embeddings.class_embedding")
        first = graph.add("Unsqueeze", first, graph.ints(0))
        first = graph.add("Pad", first, graph.ints(0, 0, side * side, 0))
        positions = graph.weight("prefix.embeddings.position_embedding.weight")
        tokens = graph.add("Add", embedded, graph.add("Add", first, positions))
        return graph.add("Reshape", tokens, graph.ints(-1, config.hidden_size))

    def _attended(self, x: str, features: str, block: int) -> str:
        """The residual stream behind a block's attention."""
        graph, config = self.graph, self.config
        heads = config.num_attention_heads
        width = config.hidden_size // heads
        layer = f"prefix.encoder.layers.{block}.self_attn"
        shape = graph.ints(-1, config.num_tokens, heads, width)
        split = [
            graph.add("Reshape", projected, shape)
            for projected in self.linear.several(
                features, [f"{layer}.{name}_proj" for name in ("q", "k", "v")]
            )
        ]
        q, v = (graph.add("Transpose", part, perm=[0, 2, 1, 3]) for part in (split[0], split[2]))
        k = graph.add("Transpose", split[1], perm=[0, 2, 3, 1])
        scores = graph.add("MatMul", graph.add("Mul", q, graph.floats(width**-0.5)), k)
        mixed = graph.add("MatMul", graph.add("Softmax", scores, axis=-1), v)
        mixed = graph.add("Transpose", mixed, perm=[0, 2, 1, 3])
        rows = graph.add("Reshape", mixed, graph.ints(-1, config.hidden_size))
        return graph.add("Add", x, self.linear(rows, f"{layer}.out_proj"))

    def _perceived(self, x: str, block: int) -> str:
        """The residual stream behind a block's perceptron."""
        layer = f"encoder.layers.{block}"
        inner = self.linear(self._norm(x, f"{layer}.layer_norm2"), f"prefix.{layer}.mlp.fc1")
        return self.graph.add(
            "Add", x, self.linear(self._activated(inner), f"prefix.{layer}.mlp.fc2")
        )

    def _activated(self, x: str) -> str:
        graph = self.graph
        match self.config.hidden_act:
            case "quick_gelu":
                steep = graph.add("Sigmoid", graph.add("Mul", x, graph.floats(1.702)))
                return graph.add("Mul", x, steep)
            case "gelu_new" | "gelu_pytorch_tanh":
                return graph.add("Gelu", x, approximate="tanh")
            case "relu":
                return graph.add("Relu", x)
            case _:
                return graph.add("Gelu", x)

    def _norm(self, x: str, name: str) -> str:
        weight, bias = (self.graph.weight(f"prefix.{name}.{part}") for part in ("weight", "bias"))
        epsilon = self.config.layer_norm_eps
        return self.graph.add("LayerNormalization", x, weight, bias, axis=-1, epsilon=epsilon)
