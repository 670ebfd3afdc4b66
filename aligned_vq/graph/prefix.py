"""The vision prefix as ONNX nodes, equivalent to `VisionPrefix`, on rows `[B * N, D]`.

With B = 0 all tensors are empty, and the prefix costs no time.
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
        """Features and residual stream, rows `[B * N, D]`, of normalised pixels `[B, 3, H, W]`."""
        x = self._norm(self._embeddings(pixels), "pre_layrnorm")
        for number in range(split.block):
            features = self._norm(x, f"encoder.layers.{number}.layer_norm1")
            x = self._add_attention(x, features, number)
            x = self._add_mlp(x, number)
        if split.norm == "pre":
            return x, x
        features = self._norm(x, f"encoder.layers.{split.block}.layer_norm1")
        if split.norm == "ln1":
            return features, x
        x = self._add_attention(x, features, split.block)
        return self._norm(x, f"encoder.layers.{split.block}.layer_norm2"), x

    def _embeddings(self, pixels: str) -> str:
        graph, config = self.graph, self.config
        patch, channels = config.patch_size, config.num_channels
        side = config.image_size // patch
        # Patches as rows of one matrix product, as in `split.vision.Embeddings`. Pixels beyond the
        # last whole patch are cut off.
        ends = graph.ints(side * patch, side * patch)
        cropped = graph.add("Slice", pixels, graph.ints(0, 0), ends, graph.ints(2, 3))
        patches = graph.add("Reshape", cropped, graph.ints(-1, channels, side, patch, side, patch))
        patches = graph.add("Transpose", patches, perm=[0, 2, 4, 1, 3, 5])
        rows = graph.add("Reshape", patches, graph.ints(-1, channels * patch * patch))
        kernel = graph.weight("prefix.embeddings.patch_embedding.weight")
        embedded = graph.add("Gemm", rows, graph.add("Flatten", kernel, axis=1), transB=1)
        embedded = graph.add("Reshape", embedded, graph.ints(-1, side * side, config.hidden_size))
        # The class token precedes the patches. It is added to a row of zeros, together with the
        # position embeddings, so that it need not be expanded to B rows.
        embedded = graph.add("Pad", embedded, graph.ints(0, 1, 0, 0, 0, 0))
        class_token = graph.weight("prefix.embeddings.class_embedding")
        class_token = graph.add("Unsqueeze", class_token, graph.ints(0))
        class_token = graph.add("Pad", class_token, graph.ints(0, 0, side * side, 0))
        positions = graph.weight("prefix.embeddings.position_embedding.weight")
        tokens = graph.add("Add", embedded, graph.add("Add", class_token, positions))
        return graph.add("Reshape", tokens, graph.ints(-1, config.hidden_size))

    def _add_attention(self, x: str, features: str, block: int) -> str:
        """The residual stream after a block's attention to its `features`."""
        graph, config = self.graph, self.config
        heads = config.num_attention_heads
        width = config.hidden_size // heads
        layer = f"prefix.encoder.layers.{block}.self_attn"
        shape = graph.ints(-1, config.num_tokens, heads, width)
        projected = [
            graph.add("Reshape", rows, shape)
            for rows in self.linear.several(
                features, [f"{layer}.{name}_proj" for name in ("q", "k", "v")]
            )
        ]
        q, v = (graph.add("Transpose", projected[i], perm=[0, 2, 1, 3]) for i in (0, 2))
        k = graph.add("Transpose", projected[1], perm=[0, 2, 3, 1])  # already transposed
        # Scales the queries, which are fewer numbers than the scores.
        scores = graph.add("MatMul", graph.add("Mul", q, graph.floats(width**-0.5)), k)
        attended = graph.add("MatMul", graph.add("Softmax", scores, axis=-1), v)
        attended = graph.add("Transpose", attended, perm=[0, 2, 1, 3])
        rows = graph.add("Reshape", attended, graph.ints(-1, config.hidden_size))  # [B * N, D]
        return graph.add("Add", x, self.linear(rows, f"{layer}.out_proj"))

    def _add_mlp(self, x: str, block: int) -> str:
        """The residual stream after a block's MLP."""
        layer = f"encoder.layers.{block}"
        inner = self.linear(self._norm(x, f"{layer}.layer_norm2"), f"prefix.{layer}.mlp.fc1")
        return self.graph.add(
            "Add", x, self.linear(self._activate(inner), f"prefix.{layer}.mlp.fc2")
        )

    def _activate(self, x: str) -> str:
        graph = self.graph
        match self.config.hidden_act:
            case "quick_gelu":
                gate = graph.add("Sigmoid", graph.add("Mul", x, graph.floats(1.702)))
                return graph.add("Mul", x, gate)
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
