"""A teacher's text encoder as a device runs it: the same tokens, nearly the same embeddings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

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
    tower = OnnxTower(text_graph(teacher), "text.onnx", "ids", teacher.width, 1)
    cosines = (tower.run(ids) * teacher.text_embeddings(SENTENCES).numpy()).sum(1)
    assert cosines.min() > 0.99
    end = teacher.tokenizer.eos_token_id
    plain = tokenizer.ids(["x"], ["blue square"])[0].tolist().index(end)
    for special in teacher.tokenizer.all_special_tokens:
        typed = tokenizer.ids(["x"], [f"blue {special} square"])[0].tolist()
        assert typed.index(end) > plain + 1  # its characters have tokens, not the whole
