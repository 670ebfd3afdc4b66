"""Small classifier bundles that recognise the mean colour of an image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from aligned_vq.classifier.files import ClassifierContent, write_classifier
from aligned_vq.classifier.manifest import ClassifierManifest, LabelSet, ModalityInput
from aligned_vq.images.depth import RangeSettings

SIDE = 16
CONTEXT = 12
DIM = 4
COLOURS = {
    "red": (1, -1, -1, 0),
    "green": (-1, 1, -1, 0),
    "blue": (-1, -1, 1, 0),
    "white": (1, 1, 1, 0),
    "black": (-1, -1, -1, 0),
}
SPECIAL = ("[PAD]", "[BOS]", "[EOS]", "[UNK]")
WORDS = (*SPECIAL, "a", "an", "photo", "of", *COLOURS, "yellow", "wall")
VECTORS = {**COLOURS, "yellow": (1, 1, -1, 0)}
SETS = (LabelSet("colours", ("red", "green", "blue")), LabelSet("greys", ("white", "black")))
TEMPLATE = "a photo of {article} {label}"
LOGIT_SCALE = 10.0
RANGES = (
    ModalityInput("rgb", LOGIT_SCALE),
    ModalityInput("depth", LOGIT_SCALE, RangeSettings(fixed=(0.0, 4.0))),
)
MANIFEST = ClassifierManifest(
    name="mean colour",
    embedding_dim=DIM,
    template=TEMPLATE,
    context_tokens=CONTEXT,
    side_px=SIDE,
    image_mean=(0.5, 0.5, 0.5),
    image_std=(0.5, 0.5, 0.5),
    modalities=RANGES,
    label_sets=SETS,
    image_digest="",
    labels_digest="",
)


def write_bundle(
    folder: Path,
    *,
    with_text: bool = True,
    manifest: ClassifierManifest = MANIFEST,
    whitespace: bool = False,
    graph: bytes = b"",
) -> Path:
    """A bundle at this path; `whitespace`: words are what stands between spaces."""
    rows = {
        own.name: unit(np.array([VECTORS[label] for label in own.labels], np.float32))
        for own in manifest.label_sets
    }
    text = text_graph() if with_text else None
    tokens = tokenizer(whitespace) if with_text else None
    images = graph or image_graph()
    write_classifier(folder, ClassifierContent(manifest, images, rows, text, tokens))
    return folder


def with_modalities(*modalities: ModalityInput) -> ClassifierManifest:
    return replace(MANIFEST, modalities=modalities)


def unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    result: NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return result


def image_graph() -> bytes:
    """Mean of each channel, and a little of a fourth direction, as a unit vector."""
    weights = np.eye(3, DIM, dtype=np.float32)
    nodes = [
        helper.make_node("GlobalAveragePool", ["pixels"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["means"]),
        helper.make_node("Gemm", ["means", "weights", "bias"], ["colour"]),
        helper.make_node("LpNormalization", ["colour"], ["embedding"], axis=1, p=2),
    ]
    tensors = {"weights": weights, "bias": np.array([0, 0, 0, 0.01], np.float32)}
    pixels = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["B", 3, SIDE, SIDE])
    return _model(nodes, pixels, tensors)


def text_graph() -> bytes:
    """The sum of the words' vectors as a unit vector; most words have nearly none."""
    table = np.zeros((len(WORDS), DIM), np.float32)
    table[:, 3] = 0.001
    for word, vector in VECTORS.items():
        table[WORDS.index(word)] = vector
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["words"]),
        helper.make_node("ReduceSum", ["words", "axis"], ["sum"], keepdims=0),
        helper.make_node("LpNormalization", ["sum"], ["embedding"], axis=1, p=2),
    ]
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["T", CONTEXT])
    return _model(nodes, ids, {"table": table, "axis": np.array([1])})


def tokenizer(whitespace: bool = False) -> bytes:
    """A word for each token, between `[BOS]` and `[EOS]`."""
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = (
        pre_tokenizers.WhitespaceSplit() if whitespace else pre_tokenizers.Whitespace()
    )
    made.add_special_tokens(list(SPECIAL))
    made.post_processor = processors.TemplateProcessing(
        single="[BOS] $A [EOS]", special_tokens=[("[BOS]", 1), ("[EOS]", 2)]
    )
    made.enable_padding(pad_id=0, pad_token="[PAD]", length=CONTEXT)
    text: str = made.to_str()
    return text.encode()


def plain(colour: tuple[int, int, int], size: tuple[int, int] = (40, 24)) -> Image.Image:
    return Image.new("RGB", size, colour)


def _model(
    nodes: list[onnx.NodeProto],
    entry: onnx.ValueInfoProto,
    tensors: Mapping[str, NDArray[Any]],
) -> bytes:
    embedding = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["B", DIM])
    weights = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    graph = helper.make_graph(nodes, "tower", [entry], [embedding], weights)
    opset = [helper.make_opsetid("", 17)]
    serialized: bytes = helper.make_model(
        graph, opset_imports=opset, ir_version=9
    ).SerializeToString()
    return serialized
