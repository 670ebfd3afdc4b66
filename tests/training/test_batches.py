"""Batches depend on the seed and the step alone."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoProcessor

from aligned_vq.data.batches import Batch, Steps, prefetched
from aligned_vq.data.sources import open_source
from aligned_vq.llava.checkpoint import LlavaCheckpoint
from aligned_vq.llava.packing import Packer

MakeSteps = Callable[..., Steps]


@pytest.fixture
def steps(llava_directory: Path, pictures: Path, tmp_path: Path) -> MakeSteps:
    processor = AutoProcessor.from_pretrained(llava_directory)
    settings = LlavaCheckpoint(llava_directory).processor()

    def make(rank: int = 0, processes: int = 1, pairs: int = 1, labels: bool = True) -> Steps:
        source = open_source(f"llava:{pictures / 'chat.json'}", tmp_path)
        packer = Packer(processor, 16) if labels else None
        return Steps(source, settings, packer, 4, pairs, 5, 1, rank, processes)

    return make


def equal(one: Batch, other: Batch) -> bool:
    assert one.text is not None
    assert other.text is not None
    pairs = [
        (one.pixels, other.pixels),
        (one.picked, other.picked),
        *zip(one.text, other.text, strict=True),
    ]
    return all(torch.equal(a, b) for a, b in pairs)


def test_the_same_step_is_the_same_batch_also_in_another_process(steps: MakeSteps) -> None:
    own = steps()
    copy = pickle.loads(pickle.dumps(own))
    assert equal(own[7], own[7])
    assert equal(own[7], copy[7])
    assert not equal(own[7], own[8])
    assert [equal(batch, own[n]) for n, batch in enumerate(own.loader(2, 4, 0), 2)] == [True] * 2


def test_processes_share_a_step_out(steps: MakeSteps) -> None:
    whole = steps()[3]
    parts = [steps(rank, 2)[3] for rank in range(2)]
    assert whole.text is not None
    for part in parts:
        assert part.text is not None
        assert torch.equal(part.pixels, whole.pixels[part.picked])
        width = part.text.ids.shape[1]
        assert torch.equal(part.text.ids, whole.text.ids[part.picked, :width])
    assert sorted(torch.cat([p.picked for p in parts]).tolist()) == [0, 1, 2, 3]


def test_a_step_asks_so_many_questions_of_an_image_or_none(steps: MakeSteps) -> None:
    for pairs in (1, 2, 8):
        text = steps(pairs=pairs)[0].text
        assert text is not None
        assert text.segments.max() == min(pairs, 2)
    assert steps(labels=False)[0].text is None


def test_a_thread_makes_one_batch_ahead_and_none_behind_the_end() -> None:
    made: list[int] = []
    begun = [threading.Event() for _ in range(5)]

    def batch_of(step: int) -> str:
        made.append(step)
        begun[step].set()
        assert threading.current_thread() is not threading.main_thread()
        return f"batch {step}"

    batches = prefetched(batch_of, 2, 5)
    assert made == []
    for step in range(2, 5):
        assert next(batches) == f"batch {step}"
        assert begun[min(step + 1, 4)].wait(10)  # while this batch is in use
        assert made == list(range(2, min(step + 2, 5)))
    assert list(batches) == []
    assert list(prefetched(batch_of, 5, 5)) == []


def test_a_batch_that_fails_fails_at_its_step() -> None:
    batches = prefetched(lambda step: 6 // (3 - step), 1, 5)
    assert [next(batches), next(batches)] == [3, 6]
    with pytest.raises(ZeroDivisionError):
        next(batches)
