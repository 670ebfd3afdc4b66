"""Writing of a bundle's `edge.onnx`: the vision prefix and the quantizer as one graph.

Each edge half has a graph of its own: `edge-depth.onnx` refers to `edge-depth.safetensors`.

    pixels -> prefix -> latents --+-> stage 0 -> stage 1 ... -> indices, covered tokens
                  known latents --+      (cover, rate weight)

Latents are an output too, so that an image over its byte limit is quantized again without running
the prefix again.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from onnx import ModelProto, TensorProto, ValueInfoProto, checker, helper
from safetensors.torch import load

from aligned_vq.codec.bundle_files import (
    GRAPH,
    changed_copy,
    file_digest,
    read_manifest,
    read_verified,
    write_manifest,
)
from aligned_vq.codec.edge_modality import EdgeModality
from aligned_vq.codec.manifest import SplitManifest
from aligned_vq.errors import ConfigError
from aligned_vq.files.atomic_file import write_file
from aligned_vq.graph import terms
from aligned_vq.graph.builder import GraphBuilder
from aligned_vq.graph.linear import INT8_PRODUCT, Linear
from aligned_vq.graph.prefix import PrefixWriter
from aligned_vq.graph.quantizer import QuantizerWriter
from aligned_vq.graph.weights import stored_tensors

OPSET, IR_VERSION = 20, 10
"""Supported by ONNX Runtime 1.18 and later."""


def write_graph(directory: str | Path, *, int8: bool = False) -> Path:
    """Add or replace the graphs of all edge halves of a bundle, with digests in the manifest.

    `SplitManifest.digest` does not change, so copies of the bundle without graphs remain
    compatible. Returns the path of the graph for rgb.

    Args:
        directory: the bundle.
        int8: quantize the weights of the blocks to 8 bits and multiply them as integers.

    Raises:
        ConfigError: the bundle is incomplete or damaged, has no codebooks, or cannot be replaced.
        NotWritten: the disk is full, or the permission to write is missing.
    """
    folder = Path(directory)
    manifest = read_manifest(folder)
    if manifest.quantizer.kind == "identity":
        raise ConfigError(
            f"{folder}: expected a codec with codebooks, got the identity quantizer, which sends "
            "raw features instead of indices; run the edge with torch"
        )
    with changed_copy(folder, folder) as new:
        digests = []
        for half in manifest.edge_halves:
            content = read_verified(folder / half.weights_file, half.weights_digest)
            digests.append(write_half(new, edge_model(manifest, half, content, int8), half))
        written = replace(
            manifest,
            edge_graph_digest=digests[0],
            modalities=tuple(
                replace(half, graph_digest=digest)
                for half, digest in zip(manifest.modalities, digests[1:], strict=True)
            ),
        )
        write_manifest(new, written)
    return folder / GRAPH


def write_half(folder: Path, model: ModelProto, half: EdgeModality) -> str:
    """Write the graph of an edge half, whose weights are there; returns the graph's digest."""
    graph = model.SerializeToString(deterministic=True)
    write_file(folder / half.graph_file, graph)
    # Before a manifest refers to the graph.
    checker.check_model(folder / half.graph_file)
    return file_digest(graph)


def has_int8_weights(graph: bytes) -> bool:
    """Whether a graph was written with weights of 8 bits."""
    return any(node.op_type == INT8_PRODUCT for node in ModelProto.FromString(graph).graph.node)


def edge_model(
    manifest: SplitManifest, half: EdgeModality, content: bytes, int8: bool = False
) -> ModelProto:
    """The graph of an edge half of a bundle; `content` is that of its safetensors file."""
    graph = GraphBuilder(stored_tensors(half.weights_file, content))
    config, spec, vision = manifest.quantizer, manifest.features, manifest.tower.vision
    linear = Linear(graph, load(content) if int8 else None)
    features, residual = PrefixWriter(graph, vision, linear).prefix(terms.PIXELS, manifest.split)
    quantizer = QuantizerWriter(config, spec.num_tokens)
    latents = quantizer.latents(graph, features)
    outputs = [_typed(terms.LATENTS, "B", spec.num_tokens, config.codebook_dim)]
    values = [latents]
    if manifest.link == "statistics":
        outputs.append(_typed(terms.STATISTICS, "tokens", 2))
        values.append(_statistics(graph, residual, vision.layer_norm_eps))
    # Either has one image and the other none.
    image = graph.add("Concat", latents, terms.KNOWN_LATENTS, axis=0)
    stage_outputs = quantizer.stages(graph, image, terms.COVER, terms.RATE_WEIGHT)
    for stage, (indices, covered) in enumerate(stage_outputs):
        rows = f"tokens_{stage}"
        outputs.append(
            _typed(terms.indices_name(stage), rows, config.num_groups, kind=TensorProto.INT64)
        )
        outputs.append(_typed(terms.covered_name(stage), rows, kind=TensorProto.BOOL))
        values += (indices, covered)
    for output, value in zip(outputs, values, strict=True):
        # Values have generated names, outputs have fixed ones.
        graph.nodes.append(helper.make_node("Identity", [value], [output.name]))
    height, width = manifest.processor.output_size
    inputs = [
        _typed(terms.PIXELS, "B", vision.num_channels, height, width),
        _typed(terms.KNOWN_LATENTS, "1 - B", spec.num_tokens, config.codebook_dim),
        _typed(terms.COVER, config.num_quantizers, kind=TensorProto.UINT8),
        _typed(terms.RATE_WEIGHT),
    ]
    edge_graph = helper.make_graph(
        graph.nodes, "edge", inputs, outputs, list(graph.initializers.values())
    )
    model = helper.make_model(
        edge_graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="aligned-vq",
    )
    helper.set_model_props(model, {"manifest": manifest.digest().hex()})
    return model


def _statistics(graph: GraphBuilder, residual: str, epsilon: float) -> str:
    """Each token's mean and `sqrt(variance + epsilon)`, `[B * N, 2]`."""
    mean = graph.add("ReduceMean", residual, graph.ints(1), keepdims=1)
    centred = graph.add("Sub", residual, mean)
    variance = graph.add(
        "ReduceMean", graph.add("Mul", centred, centred), graph.ints(1), keepdims=1
    )
    deviation = graph.add("Sqrt", graph.add("Add", variance, graph.floats(epsilon)))
    return graph.add("Concat", mean, deviation, axis=1)


def _typed(
    name: str, *shape: int | str, kind: TensorProto.DataType = TensorProto.FLOAT
) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)
