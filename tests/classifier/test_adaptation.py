"""A stream's adaptation belongs to its labels and its camera."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aligned_vq.errors import InvalidInput
from edge_client import EdgeClassifier
from tests.classifier.bundles import plain, write_bundle

RED = (255, 0, 0)


def test_an_adapted_stream_is_of_one_camera(tmp_path: Path) -> None:
    classifier = EdgeClassifier(write_bundle(tmp_path / "bundle"), threads=1)
    stream = classifier.adaptation(["red", "green"])
    for _ in range(9):
        assert classifier.classify(plain(RED), stream.labels, adaptation=stream).best == "red"
    assert stream.correction == "none"
    depth = np.full((20, 20), 3900, np.uint16)
    with pytest.raises(InvalidInput, match="expected images of rgb"):
        classifier.classify(depth, stream.labels, "depth", stream)
    with pytest.raises(InvalidInput, match="expected the labels of the adapted stream"):
        classifier.classify(plain(RED), ["red", "blue"], adaptation=stream)
    own = classifier.adaptation(["white", "black"], "depth")
    assert classifier.classify(depth, own.labels, "depth", own).best == "black"
