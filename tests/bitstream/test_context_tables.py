from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from aligned_vq.bitstream import ContextTables, EntropyTables, EntryClasses, Layout
from aligned_vq.bitstream.context.coding import decode_context, encode_context
from aligned_vq.bitstream.context.rules import FEATURES
from aligned_vq.bitstream.counts import MAX_COUNT, blend
from aligned_vq.errors import ConfigError, CorruptPayload
from aligned_vq.types import Encoded, QuantizerConfig, StageIndices

from .samples import (
    GROUPED,
    PAPER,
    context_tables,
    entry_classes,
    grouped_encoded,
    skewed_tables,
)

TABLES = context_tables(GROUPED)
SMALL = QuantizerConfig(dim=4, codebook_dim=4, codebook_sizes=(4,))


def contexts_of(tables: EntropyTables) -> ContextTables:
    assert tables.contexts is not None
    return tables.contexts


def names(tables: ContextTables) -> list[list[list[str]]]:
    """The features in use per stage, of indices and of masks."""
    return [
        [[name for name, use in zip(FEATURES, uses, strict=True) if use] for uses in stage.features]
        for stage in tables.stages
    ]


def test_what_was_seen_outweighs_the_prior() -> None:
    counts = blend(np.array([[10_000, 0, 0], [0, 0, 0], [0, 1, 0]], np.int64))
    shares = counts / counts.sum(axis=1, keepdims=True)
    assert counts.dtype == np.uint32
    assert counts.min() == 1
    assert shares[0, 0] > 0.999
    assert shares[1, 0] > 0.999
    assert shares[2, 1] > 0.1


def test_huge_counts_are_scaled_down_row_by_row() -> None:
    counts = blend(np.array([[10**9, 1], [5, 5]], np.int64))
    assert counts.min() == 1
    assert MAX_COUNT // 2 <= counts.max() <= MAX_COUNT
    assert 1280 <= counts[1, 1] <= 1300


def test_each_conditioning_names_its_features() -> None:
    maps = entry_classes(GROUPED)
    examples = [grouped_encoded()]
    mask = ["class_token", "latest", "previous", "left", "upper"]
    for conditioning, expected in (
        ("static", [[[], []]] * 2),
        ("position", [[["region"], ["region"]]] * 2),
        (
            "neighbours",
            [[["class_token", "left", "upper"], mask], [["class_token", "latest", "left"], mask]],
        ),
    ):
        tables = ContextTables.from_examples(examples, GROUPED, maps, conditioning)  # type: ignore[arg-type]
        assert names(tables) == expected
    with pytest.raises(ConfigError, match="conditioning must be one of"):
        ContextTables.from_examples(examples, GROUPED, maps, "psychic")  # type: ignore[arg-type]


def test_counts_are_those_of_the_examples() -> None:
    mask = np.array([True, False, True, True, False])
    stage = StageIndices(np.array([[3], [1], [1]], np.int32), mask)
    maps = [EntryClasses(np.array([[0, 1, 1, 1]], np.uint16), np.zeros((1, 4), np.uint8))]
    (found,) = ContextTables.from_examples([Encoded(5, (stage,))], SMALL, maps, "static").stages
    # 256 for each one seen, and 2048 shared out as 1 to 7 for what all contexts saw.
    assert found.coarse.tolist() == [[[256, 768 + 1792]]]
    assert found.fine.tolist() == [[1, 5, 1, 3]]
    assert found.empty.tolist() == [3, 1]
    assert found.mask.tolist() == [[512 + 853, 768 + 1194]]


def test_save_and_load(tmp_path: Path) -> None:
    path = tmp_path / "entropy.safetensors"
    TABLES.save(path)
    loaded = EntropyTables.load(path, GROUPED)
    assert loaded.digest() == TABLES.digest()
    assert contexts_of(loaded).digest() == contexts_of(TABLES).digest()
    with pytest.raises(ConfigError):
        EntropyTables.load(path, PAPER)


def test_tables_without_contexts_keep_their_digest_and_file(tmp_path: Path) -> None:
    plain = skewed_tables(GROUPED)
    assert plain.digest().hex() == "b8b662922e68a41db605b126991b21c0"
    assert plain.digest() != TABLES.digest()
    plain.save(tmp_path / "entropy.safetensors")
    assert sorted(load_file(tmp_path / "entropy.safetensors")) == ["stage_00", "stage_01"]
    assert EntropyTables.load(tmp_path / "entropy.safetensors", GROUPED).contexts is None


def test_digest_names_every_tensor() -> None:
    contexts = contexts_of(TABLES)
    for name in ("coarse", "fine", "mask", "empty"):
        changed = getattr(contexts.stages[1], name).copy()
        changed.flat[0] += 1
        stages = (contexts.stages[0], replace(contexts.stages[1], **{name: changed}))
        assert ContextTables(stages).digest() != contexts.digest()


def with_value(array: NDArray[Any], value: int) -> NDArray[Any]:
    changed = array.copy()
    changed.flat[0] = value
    return changed


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("context_01_coarse", None, "context_01_coarse"),
        ("context_02_coarse", lambda _: np.ones((1, 1, 2), np.uint32), "context_02_coarse"),
        ("other", lambda _: np.ones(1, np.uint32), "expected tensors"),
        ("context_00_coarse", lambda a: a[:, 1:], "shapes"),
        ("context_00_coarse", lambda a: a[:, :, 1:], "shapes"),
        ("context_00_coarse", lambda a: a.astype(np.int64), "uint32"),
        ("context_00_coarse", lambda a: with_value(a, 0), "must be 1 to"),
        ("context_00_fine", lambda a: with_value(a, MAX_COUNT + 1), "must be 1 to"),
        ("context_00_fine", lambda a: a[:, :50], "shapes"),
        ("context_00_mask", lambda a: a[:, :1], "shapes"),
        ("context_00_mask", lambda a: a[0], "uint32"),
        ("context_01_empty", lambda a: with_value(a, 0), "must be 1 to"),
        ("context_01_features", lambda a: with_value(a, 2), "features must be"),
        ("context_01_features", lambda a: 1 - a, "shapes"),
        ("context_01_symbol_of", lambda a: with_value(a, 64), "below 64"),
        ("context_01_symbol_of", lambda a: a.astype(np.int32), "uint16"),
        ("context_01_symbol_of", lambda a: a[0], "groups, entries"),
        ("context_00_class_of", lambda a: with_value(a, 9), "shapes"),
        ("context_00_class_of", lambda a: a[:1], "groups, entries"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, name: str, change: Any, words: str) -> None:
    path = tmp_path / "entropy.safetensors"
    TABLES.save(path)
    tensors = load_file(path)
    if change is None:
        del tensors[name]
    else:
        tensors[name] = np.ascontiguousarray(change(tensors.get(name)))
    save_file(tensors, path)
    with pytest.raises(ConfigError, match=words):
        EntropyTables.load(path, GROUPED)


def test_tables_of_another_shape_are_refused() -> None:
    contexts = contexts_of(TABLES)
    with pytest.raises(ConfigError, match="shapes"):
        ContextTables(contexts.stages[:1]).check(GROUPED)
    with pytest.raises(ConfigError, match="one number of groups"):
        ContextTables(())
    with pytest.raises(ConfigError, match="context tables of shapes"):
        replace(skewed_tables(PAPER), contexts=contexts).check(PAPER)


def test_examples_and_maps_of_another_quantizer_are_refused() -> None:
    maps = entry_classes(GROUPED)
    with pytest.raises(ConfigError, match="class maps of shapes"):
        ContextTables.from_examples([], GROUPED, maps[:1])
    with pytest.raises(ConfigError, match="at most 1 stages"):
        ContextTables.from_examples([grouped_encoded()], PAPER, entry_classes(PAPER))
    for indices in (np.array([[4]], np.int32), np.array([[0, 0]], np.int32)):
        with pytest.raises(ConfigError, match="example indices"):
            ContextTables.from_examples(
                [Encoded(1, (StageIndices(indices),))], SMALL, entry_classes(SMALL)
            )
    short = StageIndices(np.zeros((2, 1), np.int32), np.array([True, True]))
    with pytest.raises(ConfigError, match="example indices"):
        ContextTables.from_examples([Encoded(3, (short,))], SMALL, entry_classes(SMALL))
    big = QuantizerConfig(dim=4, codebook_dim=4, codebook_sizes=(256,))
    example = Encoded(1, (StageIndices(np.zeros((1, 1), np.int32)),))
    with pytest.raises(ConfigError, match="fewer classes"):
        ContextTables.from_examples([example], big, entry_classes(big, classes=256))


def test_symbols_without_entries_and_codebooks_of_one_symbol_do_no_harm() -> None:
    for symbols in ([0, 0, 0, 0], [1, 1, 3, 3]):
        maps = [EntryClasses(np.array([symbols], np.uint16), np.zeros((1, 4), np.uint8))]
        encoded = Encoded(4, (StageIndices(np.arange(4, dtype=np.int32)[:, None]),))
        tables = ContextTables.from_examples([encoded], SMALL, maps)
        assert tables.code_bits(encoded) < 40


def test_a_symbol_without_entries_is_corrupt() -> None:
    encoded = Encoded(4, (StageIndices(np.arange(4, dtype=np.int32)[:, None]),))
    tables = ContextTables.from_examples([encoded], SMALL, entry_classes(SMALL, classes=1))
    halved = replace(tables.stages[0], symbol_of=np.array([[1, 1, 3, 3]], np.uint16))
    body, layout = encode_context(encoded, tables), Layout.of(encoded, SMALL)
    with pytest.raises(CorruptPayload, match="symbol of some entry, got 0"):
        decode_context(body, layout, ContextTables((halved,)))
