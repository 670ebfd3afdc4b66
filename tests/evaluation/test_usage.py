"""Codebook figures of indices made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from aligned_vq.evaluation.usage import codebook_usage
from aligned_vq.types import Encoded, StageIndices


def stage(indices: list[list[int]], mask: list[bool] | None = None) -> StageIndices:
    rows = np.array(indices, np.int32).reshape(len(indices), -1)
    return StageIndices(rows, None if mask is None else np.array(mask))


def test_every_stage_and_group_is_counted_over_all_images() -> None:
    first = Encoded(4, (stage([[0, 0], [1, 0], [2, 0], [3, 0]]),))
    second = Encoded(
        4, (stage([[0, 1], [1, 1], [2, 1], [3, 1]]), stage([[5, 7]], [True, False, False, False]))
    )
    usage = codebook_usage([first, second], (8, 16), num_groups=2)
    assert [(u.stage, u.group, u.size) for u in usage] == [
        (0, 0, 8),
        (0, 1, 8),
        (1, 0, 16),
        (1, 1, 16),
    ]
    assert [u.perplexity for u in usage] == pytest.approx([4, 2, 1, 1])
    assert [u.dead for u in usage] == [4, 6, 15, 15]
    assert usage[0].dead_share == 0.5
    assert [u.covered for u in usage] == [1, 1, 1 / 8, 1 / 8]
    assert [u.bits_per_token for u in usage] == pytest.approx([2, 1, 0, 0])


def test_uneven_use_has_the_entropy_of_its_shares() -> None:
    half = stage([[0], [0], [1], [2]], [True] * 4 + [False] * 4)
    (usage,) = codebook_usage([Encoded(8, (half,))], (4,))
    assert usage.perplexity == pytest.approx(2**1.5)
    assert usage.bits_per_token == pytest.approx(0.75)  # 1.5 bits for every other token
    assert usage.to_dict() == {
        "stage": 0, "group": 0, "size": 4, "dead": 1, "covered": 0.5, "perplexity": 2.8284,
        "dead_share": 0.25, "bits_per_token": 0.75,
    }  # fmt: skip


def test_a_stage_that_covers_nothing_is_dead() -> None:
    _, second = codebook_usage([Encoded(1, (stage([[1]]),))], (2, 4))
    assert (second.dead, second.perplexity, second.bits_per_token) == (4, 0, 0)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        codebook_usage([], (4,))
    with pytest.raises(ValueError, match="below 4"):
        codebook_usage([Encoded(1, (stage([[4]]),))], (4,))
    with pytest.raises(ValueError, match="at most 1 stages"):
        codebook_usage([Encoded(1, (stage([[1]]), stage([[1]])))], (4,))
