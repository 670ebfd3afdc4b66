"""A teacher's text encoder as a device runs it: the same tokens, nearly the same embeddings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from aligned_vq.dual_encoder.checkpoint import DualEncoder
from aligned_vq.edgevl.text_graph import text_graph, tokenizer_file
from edge_client.classifier.tokenizing import LabelTokenizer
from edge_client.classifier.tower import OnnxTower

SENTENCES = ["a photo of a red circle", "blue square", "zebra 7"]


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # torch's exporter
def test_a_device_reads_texts_as_the_teacher_does(small_clip: Path) -> None:
    teacher = DualEncoder(str(small_clip))
    tokenizer = LabelTokenizer(tokenizer_file(teacher), "tokenizer.json", teacher.context_tokens)
    ids = tokenizer.ids(SENTENCES, SENTENCES)
    assert np.array_equal(ids, np.asarray(teacher.token_ids(SENTENCES)))
    graph = text_graph(teacher)
    weights = [
        numpy_helper.to_array(tensor)
        for tensor in onnx.load_from_string(graph).graph.initializer
        if tensor.data_type == onnx.TensorProto.INT8
    ]
    # Two products with an unsigned byte fit 16 bits, in which some processors add them.
    assert weights
    assert max(int(np.abs(own.astype(int)).max()) for own in weights) <= 64
    tower = OnnxTower(graph, "text.onnx", "ids", teacher.width, 1)
    cosines = (tower.run(ids) * teacher.text_embeddings(SENTENCES).numpy()).sum(1)
    assert cosines.min() > 0.99
    end = teacher.tokenizer.eos_token_id
    plain = tokenizer.ids(["x"], ["blue square"])[0].tolist().index(end)
    for special in teacher.tokenizer.all_special_tokens:
        typed = tokenizer.ids(["x"], [f"blue {special} square"])[0].tolist()
        assert typed.index(end) > plain + 1  # its characters have tokens, not the whole
