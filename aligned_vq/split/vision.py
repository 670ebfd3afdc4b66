"""The two halves of a CLIP vision tower, cut at any LayerNorm.

    pixels -> embeddings -> pre_layrnorm -> blocks ... | block k ... -> hidden states for LLaVA
                                          VisionPrefix | VisionSuffix

A pre-LN block computes `x + Attn(LN1(x))`, then `x + MLP(LN2(x))`, so both the LayerNorm output
(`features`) and the residual stream `x` (`residual`) are needed behind the cut. Modules are named
as in the checkpoint, so a half's `state_dict` is a subset of the tower's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aligned_vq.llava.tower_config import TowerConfig, VisionConfig
from aligned_vq.types import SplitPoint

HalfT = TypeVar("HalfT", bound=nn.Module)

_WHOLE_BLOCK = frozenset({"layer_norm1", "self_attn", "layer_norm2", "mlp"})
# The modules of the cut block that run in the prefix, the cut LayerNorm included. The suffix runs
# the others.
_BEFORE_CUT = {
    "pre": frozenset[str](),
    "ln1": frozenset({"layer_norm1"}),
    "ln2": frozenset({"layer_norm1", "self_attn", "layer_norm2"}),
}


class VisionPrefix(nn.Module):
    """The edge half of the tower: pixels to `(features, residual)` at the cut."""

    def __init__(self, config: VisionConfig, split: SplitPoint) -> None:
        super().__init__()
        self.split = split
        self.embeddings = Embeddings(config)
        self.pre_layrnorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        parts = dict.fromkeys(range(split.block), _WHOLE_BLOCK)
        parts[split.block] = _BEFORE_CUT[split.norm]
        self.encoder = _Encoder(config, parts)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Features and residual stream, `[B, N, D]` each, of normalised pixels `[B, 3, H, W]`."""
        x = self.pre_layrnorm(self.embeddings(pixel_values))
        for block in range(self.split.block):
            x = self.encoder.block(block)(x)
        if self.split.norm == "pre":
            return x, x
        cut = self.encoder.block(self.split.block)
        features = cut.layer_norm1(x)
        if self.split.norm == "ln1":
            return features, x
        x = x + cut.self_attn(features)
        return cut.layer_norm2(x), x


class VisionSuffix(nn.Module):
    """The cloud half of the tower: `(features, residual)` to the input of LLaVA's projector."""

    def __init__(self, tower: TowerConfig, split: SplitPoint) -> None:
        super().__init__()
        tower.check_split(split)
        self.tower = tower
        self.split = split
        # Blocks from `last_block` on produce hidden states that LLaVA does not use.
        parts = dict.fromkeys(range(split.block, tower.last_block), _WHOLE_BLOCK)
        parts[split.block] = _WHOLE_BLOCK - _BEFORE_CUT[split.norm]
        self.encoder = _Encoder(tower.vision, parts)

    def forward(self, features: Tensor, residual: Tensor) -> Tensor:
        """Hidden states `[B, N', D * len(feature_layers)]` of features and residual `[B, N, D]`.

        N' is N - 1 if LLaVA leaves out the class token, else N.
        """
        states = {}
        # At ln2, attention was already added: the hidden state before the cut block is lost.
        if self.split.norm != "ln2":
            states[self.split.block] = residual
        x = residual
        cut = self.encoder.block(self.split.block)
        if self.split.norm == "pre":
            x = cut(x)
        else:
            if self.split.norm == "ln1":
                x = x + cut.self_attn(features)
                features = cut.layer_norm2(x)
            x = x + cut.mlp(features)
        states[self.split.block + 1] = x
        for block in range(self.split.block + 1, self.tower.last_block):
            x = self.encoder.block(block)(x)
            states[block + 1] = x
        selected = torch.cat([states[layer] for layer in self.tower.feature_layers], dim=-1)
        # Token 0 is the class token.
        return selected[:, 1:] if self.tower.select_strategy == "default" else selected


def tensor_names(half: VisionPrefix | VisionSuffix) -> list[str]:
    """Names of the tower's tensors that a half needs."""
    return sorted(half.state_dict())


def build_prefix(
    config: VisionConfig, split: SplitPoint, tensors: Mapping[str, Tensor]
) -> VisionPrefix:
    """A prefix in eval mode with these weights, which are not copied."""
    # Modules on the meta device allocate and initialise nothing before their weights are assigned.
    with torch.device("meta"):
        prefix = VisionPrefix(config, split)
    return _assign(prefix, tensors)


def build_suffix(
    tower: TowerConfig, split: SplitPoint, tensors: Mapping[str, Tensor]
) -> VisionSuffix:
    """A suffix in eval mode with these weights, which are not copied."""
    with torch.device("meta"):
        suffix = VisionSuffix(tower, split)
    return _assign(suffix, tensors)


def _assign(half: HalfT, tensors: Mapping[str, Tensor]) -> HalfT:
    # With `assign`, the tensors become the parameters; copying into meta tensors does nothing.
    half.load_state_dict(dict(tensors), strict=True, assign=True)
    return half.eval().requires_grad_(False)


class Embeddings(nn.Module):
    """Patch embedding, class token and position embeddings."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.class_embedding = nn.Parameter(torch.zeros(config.hidden_size))
        self.patch_embedding = nn.Conv2d(
            config.num_channels,
            config.hidden_size,
            config.patch_size,
            config.patch_size,
            bias=False,
        )
        # Zeros: drawing normal values on the meta device would import torch's compiler, a second
        # of CPU time at every start.
        self.position_embedding = nn.Embedding(
            config.num_tokens,
            config.hidden_size,
            _weight=torch.zeros(config.num_tokens, config.hidden_size),
        )

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Embedded tokens `[B, N, D]`."""
        # Equal to the convolution with stride = kernel size; as one matrix product it is several
        # times faster on a CPU.
        patches = F.unfold(pixel_values, self.patch_size, stride=self.patch_size).transpose(1, 2)
        embedded = F.linear(patches, self.patch_embedding.weight.flatten(1))
        # patches [B, N - 1, C * p * p], embedded [B, N - 1, D], class_token [B, 1, D]
        class_token = self.class_embedding.expand(len(pixel_values), 1, -1)
        return torch.cat([class_token, embedded], dim=1) + self.position_embedding.weight


class Attention(nn.Module):
    """Multi-head self-attention over all tokens."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, features: Tensor) -> Tensor:
        """Attention output `[B, N, D]`, to be added to the residual stream."""
        # Heads become a batch dimension: [B, N, D] to [B, heads, N, D / heads].
        q, k, v = (
            projection(features).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        heads = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.out_proj(heads.transpose(1, 2).flatten(2))  # [B, N, D]
        return out


class Mlp(nn.Module):
    """The two-layer perceptron of a block."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.activation = config.hidden_act
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, features: Tensor) -> Tensor:
        """MLP output `[B, N, D]`, to be added to the residual stream."""
        out: Tensor = self.fc2(_activate(self.activation, self.fc1(features)))
        return out


class Block(nn.Module):
    """A pre-LN transformer block, or the parts of one that run on one side of the cut."""

    def __init__(self, config: VisionConfig, parts: frozenset[str] = _WHOLE_BLOCK) -> None:
        super().__init__()
        if "layer_norm1" in parts:
            self.layer_norm1 = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        if "self_attn" in parts:
            self.self_attn = Attention(config)
        if "layer_norm2" in parts:
            self.layer_norm2 = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        if "mlp" in parts:
            self.mlp = Mlp(config)

    def forward(self, x: Tensor) -> Tensor:
        """The residual stream `[B, N, D]` after the block; needs all its parts."""
        x = x + self.self_attn(self.layer_norm1(x))
        out: Tensor = x + self.mlp(self.layer_norm2(x))
        return out


class _Encoder(nn.Module):
    """Blocks by their number in the tower, so that tensor names equal the checkpoint's."""

    def __init__(self, config: VisionConfig, parts: Mapping[int, frozenset[str]]) -> None:
        super().__init__()
        # At the cut `pre`, the prefix runs no part of block 0.
        self.layers = nn.ModuleDict(
            {str(number): Block(config, names) for number, names in parts.items() if names}
        )

    def block(self, number: int) -> Block:
        block = self.layers[str(number)]
        assert isinstance(block, Block)
        return block


def _activate(name: str, x: Tensor) -> Tensor:
    match name:
        case "quick_gelu":
            # CLIP's approximation of GELU by a sigmoid.
            return x * torch.sigmoid(1.702 * x)
        case "gelu_new" | "gelu_pytorch_tanh":
            return F.gelu(x, approximate="tanh")
        case "relu":
            return F.relu(x)
        case _:
            return F.gelu(x)
