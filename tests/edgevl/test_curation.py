"""The pairs that are kept are those of which the teacher is most certain."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from aligned_vq.edgevl.curation import curate, read_pseudo_labels
from aligned_vq.edgevl.scoring import calibration_error, fit_scale, probabilities_of, score
from aligned_vq.errors import ConfigError

LABELS = ("gym", "kitchen", "stairs")


def direction(number: int, certainty: float) -> list[float]:
    """A unit vector that leans towards one of three axes."""
    vector = np.full(3, (1 - certainty) / 3)
    vector[number] += certainty
    return list(vector / np.linalg.norm(vector))


def embeddings() -> torch.Tensor:
    certainties = np.linspace(0.1, 0.9, 20)
    return torch.tensor([direction(i % 2, c) for i, c in enumerate(certainties)]).float()


def test_the_most_certain_share_is_kept(tmp_path: Path) -> None:
    names = [f"pair-{number}" for number in range(20)]
    texts = dict(zip(LABELS, torch.eye(3), strict=True))
    pseudo = curate(names, embeddings(), texts, 10.0, 0.25)
    assert pseudo.labels == ("gym", "kitchen") * 10
    assert np.flatnonzero(pseudo.kept).tolist() == [15, 16, 17, 18, 19]
    assert pseudo.counts() == {"kitchen": 3, "gym": 2}
    path = tmp_path / "pseudo_labels.csv"
    pseudo.write(path)
    read = read_pseudo_labels(path)
    assert (read.names, read.labels) == (pseudo.names, pseudo.labels)
    assert np.array_equal(read.kept, pseudo.kept)
    np.testing.assert_allclose(read.confidence, pseudo.confidence, atol=1e-6)


def test_all_may_be_kept() -> None:
    texts = dict(zip(LABELS, torch.eye(3), strict=True))
    assert curate(["x"] * 20, embeddings(), texts, 10.0, 1.0).kept.all()


@pytest.mark.parametrize("content", ["", "a,b\n", "name,label,confidence,kept\nx,gym,high,1\n"])
def test_damaged_files_of_pseudo_labels(tmp_path: Path, content: str) -> None:
    path = tmp_path / "pseudo_labels.csv"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"pseudo-labels with the columns name, label.*remove"):
        read_pseudo_labels(path)


def test_accuracy_by_label() -> None:
    probabilities = torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.6, 0.3, 0.1]])
    found = score(probabilities, ["gym", "kitchen", "kitchen"], LABELS)
    assert found.accuracy == pytest.approx(2 / 3)
    assert found.by_label == {"gym": 1.0, "kitchen": 0.5}
    assert found.mean_over(["gym", "kitchen"]) == 0.75


def test_calibration_error_of_known_cases() -> None:
    confident = torch.full((100,), 0.9)
    right = torch.arange(100) < 60
    assert calibration_error(confident, right) == pytest.approx(0.3, abs=1e-5)
    assert calibration_error(torch.full((100,), 0.6), right) == pytest.approx(0, abs=1e-5)


def test_the_fitted_scale_is_that_of_the_labels() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.nn.functional.normalize(torch.randn(4000, 3, generator=generator), dim=-1)
    cosines = images @ torch.eye(3)
    drawn = torch.multinomial(probabilities_of(images, torch.eye(3), 7.0), 1, generator=generator)
    assert fit_scale(cosines, drawn[:, 0]) == pytest.approx(7.0, rel=0.1)
