from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from aligned_vq.bitstream import EntropyTables
from aligned_vq.bitstream.counts import MAX_COUNT
from aligned_vq.errors import ConfigError
from aligned_vq.types import Encoded, QuantizerConfig, StageIndices

from .samples import GROUPED, PAPER, grouped_encoded, skewed_tables

SMALL = QuantizerConfig(dim=4, codebook_dim=4, codebook_sizes=(4, 2))


def test_counts_are_learned_per_stage_and_smoothed() -> None:
    stage = StageIndices(np.array([[0], [2], [2]], np.int32))
    tables = EntropyTables.from_examples([Encoded(3, (stage,)), Encoded(3, (stage,))], SMALL)
    assert [counts.tolist() for counts in tables.counts] == [[[5, 1, 9, 1]], [[1, 1]]]


def test_huge_counts_are_scaled_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aligned_vq.bitstream.counts.MAX_COUNT", 16)
    stage = StageIndices(np.zeros((1000, 1), np.int32))
    counts = EntropyTables.from_examples([Encoded(1000, (stage,))], SMALL).counts[0]
    assert counts.tolist() == [[16, 1, 1, 1]]


def test_digest_names_the_counts() -> None:
    tables = skewed_tables(GROUPED)
    assert len(tables.digest()) == 16
    assert tables.digest() == skewed_tables(GROUPED).digest()
    changed = [counts.copy() for counts in tables.counts]
    changed[1][0, 0] += 1
    assert EntropyTables(tuple(changed)).digest() != tables.digest()


def test_save_and_load(tmp_path: Path) -> None:
    tables = EntropyTables.from_examples([grouped_encoded()], GROUPED)
    tables.save(tmp_path / "entropy.safetensors")
    loaded = EntropyTables.load(tmp_path / "entropy.safetensors", GROUPED)
    assert loaded.digest() == tables.digest()
    with pytest.raises(ConfigError, match="expected tensors"):
        EntropyTables.load(tmp_path / "entropy.safetensors", PAPER)
    other = QuantizerConfig(dim=16, codebook_dim=4, codebook_sizes=(100, 16), num_groups=2)
    with pytest.raises(ConfigError, match="shapes"):
        EntropyTables.load(tmp_path / "entropy.safetensors", other)


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "entropy.safetensors"
    with pytest.raises(ConfigError, match="install the bundle"):
        EntropyTables.load(path, SMALL)
    path.write_bytes(b"not safetensors")
    with pytest.raises(ConfigError, match="install the bundle"):
        EntropyTables.load(path, SMALL)
    save_file({"stage_00": np.ones((1, 4), np.int64), "stage_01": np.ones((1, 2))}, path)
    with pytest.raises(ConfigError, match="uint32"):
        EntropyTables.load(path, SMALL)


@pytest.mark.parametrize("count", [0, MAX_COUNT + 1])
def test_counts_out_of_range_are_refused(count: int) -> None:
    with pytest.raises(ConfigError, match="must be 1 to"):
        EntropyTables((np.array([[1, count]], np.uint32),))


def test_examples_of_another_quantizer_are_refused() -> None:
    with pytest.raises(ConfigError, match="this quantizer"):
        EntropyTables.from_examples([grouped_encoded()], SMALL)
    with pytest.raises(ConfigError, match="at most 1 stages"):
        EntropyTables.from_examples([grouped_encoded()], PAPER)
    stage = StageIndices(np.array([[4]], np.int32))
    with pytest.raises(ConfigError, match="out of range"):
        EntropyTables.from_examples([Encoded(1, (stage,))], SMALL)
