"""The validation part shares no scene with training, and stays what it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from aligned_vq.data.pairs.split import hold_out, position_of
from aligned_vq.data.pairs.types import Pair, PairList
from aligned_vq.errors import ConfigError

NONE = Path("none")


def pairs_of(*scenes: str, views: int = 3) -> PairList:
    pairs = (
        Pair(f"{scene}/{view}", NONE, NONE, None, scene)
        for scene in scenes
        for view in range(views)
    )
    return PairList("made", "depth", tuple(pairs))


SCENES = tuple(f"scene{number:04d}" for number in range(400))


def scenes(part: PairList) -> set[str]:
    return {pair.scene for pair in part.pairs}


def test_no_scene_is_divided_and_no_pair_is_lost() -> None:
    source = pairs_of(*SCENES)
    training, validation = hold_out(source, 0.1)
    assert not scenes(training) & scenes(validation)
    assert len(training) + len(validation) == len(source)
    assert 20 <= len(scenes(validation)) <= 60
    assert validation.modality == "depth"
    assert "validation" in validation.name


def test_added_scenes_and_another_order_move_nothing() -> None:
    before = scenes(hold_out(pairs_of(*SCENES[:200]), 0.2)[1])
    after = scenes(hold_out(pairs_of(*reversed(SCENES)), 0.2)[1])
    assert before == after & set(SCENES[:200])


def test_a_larger_share_holds_the_smaller_one_and_a_salt_changes_it() -> None:
    source = pairs_of(*SCENES)
    small, large = (scenes(hold_out(source, share)[1]) for share in (0.1, 0.3))
    assert small < large
    assert scenes(hold_out(source, 0.1, "other")[1]) != small


def test_positions_are_the_same_on_every_machine() -> None:
    assert position_of("scene0000") == pytest.approx(0.07340247082075979, abs=1e-12)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1])
def test_shares_that_leave_a_part_empty_are_refused(share: float) -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        hold_out(pairs_of(*SCENES), share)


def test_a_single_scene_cannot_be_divided() -> None:
    with pytest.raises(ConfigError, match="1 scenes, all on one side"):
        hold_out(pairs_of("scene0000", views=9), 0.5)
