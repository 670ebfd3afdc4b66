"""Caches that adapt recognition to a stream, without gradients."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from aligned_vq.errors import InvalidInput
from aligned_vq.lqa.caches import CacheSettings, ExemplarCaches
from aligned_vq.lqa.entries import Entries

DIM, CLASSES, SCALE = 32, 5, 30.0


def units(count: int, seed: int) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).normal(size=(count, DIM))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    unit: NDArray[np.float32] = rows.astype(np.float32)
    return unit


def test_entries_keep_the_most_certain_of_each_class() -> None:
    entries = Entries(DIM, shots=2, limit=10)
    rows = units(4, 0)
    for row, entropy in zip(rows, (0.5, 0.4, 0.6, 0.1), strict=True):
        entries.add(row, 3, entropy)
    similar = entries.similarities(rows[3])
    assert len(entries) == 2
    # 0.6 never entered, 0.1 took the place of 0.5; bytes cost little.
    assert similar.max() == pytest.approx(1, abs=0.01)
    assert sorted(entries.similarities(rows[1]).round(1))[-1] == 1
    assert entries.similarities(rows[0]).max() < 0.9


def test_the_limit_is_of_all_classes_together() -> None:
    entries = Entries(DIM, shots=2, limit=3, mask_bits=CLASSES)
    for number, row in enumerate(units(8, 1)):
        entries.add(row, number, 1 - 0.1 * number, np.arange(CLASSES) == number % CLASSES)
    assert sorted(entries.classes) == [5, 6, 7]
    assert entries.masks().sum(1).tolist() == [1, 1, 1]
    assert entries.state_bytes == 3 * (DIM + 2 + 2 + 4 + 1)


def shifted_stream(count: int) -> tuple[NDArray[np.float32], NDArray[np.float32], list[int]]:
    """Texts, images that a common shift pulls towards class 0, and their classes."""
    texts = units(CLASSES, 2)
    rng = np.random.default_rng(3)
    truth = rng.integers(0, CLASSES, count)
    own = units(CLASSES, 4)  # what the camera makes of a class, beside its text
    rows = (
        0.5 * texts[truth] + 1.0 * own[truth] + 0.3 * texts[0] + rng.normal(0, 0.08, (count, DIM))
    )
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return texts, rows.astype(np.float32), truth.tolist()


def accuracy(settings: CacheSettings | None) -> float:
    texts, images, truth = shifted_stream(400)
    caches = ExemplarCaches(CLASSES, DIM, settings)
    right = []
    for image, number in zip(images, truth, strict=True):
        cosines = (texts @ image).astype(np.float64)
        corrected = caches.adapt(image, cosines, SCALE) if settings else cosines
        right.append(int(corrected.argmax()) == number)
    return float(np.mean(right[100:]))


def test_a_shifted_stream_is_recognised_better() -> None:
    before = accuracy(None)
    assert 0.3 < before < 0.95
    assert accuracy(CacheSettings()) > before + 0.02


def test_the_first_image_does_not_vote_for_itself() -> None:
    image, cosines = units(1, 5)[0], np.linspace(0, 0.2, CLASSES)
    assert (ExemplarCaches(CLASSES, DIM).adapt(image, cosines, SCALE) == cosines).all()
    itself = ExemplarCaches(CLASSES, DIM, CacheSettings(votes_first=False))
    corrected = itself.adapt(image, cosines, SCALE)
    assert corrected[-1] == pytest.approx(cosines[-1] + 0.02, abs=2e-3)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_a_number_changes_nothing(value: float) -> None:
    caches = ExemplarCaches(CLASSES, DIM)
    image, cosines = units(1, 6)[0], np.linspace(0, 0.2, CLASSES)
    caches.adapt(image, cosines, SCALE)
    before = caches.state_bytes
    damaged = image.copy()
    damaged[3] = value
    caches.adapt(damaged, cosines, SCALE)
    caches.adapt(image, np.full(CLASSES, value), SCALE)
    assert caches.state_bytes == before


def test_a_saved_state_goes_on() -> None:
    texts, images, _ = shifted_stream(60)
    one, other = ExemplarCaches(CLASSES, DIM), ExemplarCaches(CLASSES, DIM)
    for image in images[:50]:
        one.adapt(image, (texts @ image).astype(np.float64), SCALE)
    other.restore({name: tensor.copy() for name, tensor in one.tensors().items()})
    for image in images[50:]:
        cosines = (texts @ image).astype(np.float64)
        assert (one.adapt(image, cosines, SCALE) == other.adapt(image, cosines, SCALE)).all()
    with pytest.raises(InvalidInput, match="of another bundle or of other labels; reset it"):
        ExemplarCaches(CLASSES, DIM + 1).restore(one.tensors())
    with pytest.raises(InvalidInput, match="expected at most 1 entries"):
        ExemplarCaches(CLASSES, DIM, CacheSettings(limit_bytes=1)).restore(one.tensors())


def test_the_state_of_a_thousand_classes_is_bounded() -> None:
    caches = ExemplarCaches(1000, 512)
    rng = np.random.default_rng(7)
    for row in rng.normal(size=(3000, 512)).astype(np.float32):
        image = row / np.linalg.norm(row)
        caches.adapt(image, rng.normal(0, 0.05, 1000), 100.0)
    assert 500_000 < caches.state_bytes <= 1_000_000
