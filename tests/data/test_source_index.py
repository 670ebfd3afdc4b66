"""Indices of large JSON files: right at every byte, kept, made again, small, and strict."""

from __future__ import annotations

import json
import os
import random
import string
import tracemalloc
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aligned_vq.data import json_stream, llava_json, record_file
from aligned_vq.data.json_stream import Record, stream_records
from aligned_vq.data.record_file import RecordFile
from aligned_vq.data.sources import open_source
from tests.data.source_files import WRITERS, LlavaFolder, assert_refused, conversation, shade

BROKEN_FILES = {
    "empty": b"",
    "no record": b"[]",
    "object": b'{"image": "a.png"}',
    "no objects": b"[1, 2]",
    "cut in a string": b'[{"id": 1, "image": "a.p',
    "cut in a record": b'[{"id": 1',
    "cut after a record": b'[{"id": 1}',
    "trailing comma": b'[{"id": 1},]',
    "no comma": b'[{"id": 1} {"id": 2}]',
    "two arrays": b'[{"id": 1}] [{"id": 2}]',
    "bad escape": b'[{"id": "\\q"}]',
    "bad literal": b'[{"id": nul}]',
    "too deep": b'[{"id": ' + b"[" * 200_000,
    "long number": b'[{"id": ' + b"1" * 5000 + b"}]",
    "latin": '[{"id": "é"}]'.encode("latin-1"),
    "cut in a letter": '[{"id": "é'.encode()[:-1],
    "utf-16": '[{"id": 1}]'.encode("utf-16"),
}


@pytest.mark.parametrize("case", BROKEN_FILES)
@pytest.mark.usefixtures("window")
def test_a_broken_json_file_is_named(llava: LlavaFolder, workdir: Path, case: str) -> None:
    llava.path.write_bytes(BROKEN_FILES[case])
    assert_refused(lambda: llava.open(workdir), llava.path)


def test_a_record_that_never_ends(
    llava: LlavaFolder, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_stream, "WINDOW_BYTES", 100)
    monkeypatch.setattr(json_stream, "MAX_RECORD_CHARS", 1000)
    llava.path.write_text('[{"id": 1}, {"id": "' + "x" * 5000)
    assert_refused(lambda: llava.open(workdir), llava.path, "byte 12", "Unterminated")


def test_a_missing_json_file(tmp_path: Path, workdir: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        assert_refused(partial(open_source, f"llava:{path}", workdir), path, "check path")


def test_a_file_that_changes_while_in_use(llava: LlavaFolder, workdir: Path) -> None:
    source = llava.open(workdir)
    llava.write("pretty")
    assert_refused(lambda: source[0], llava.path, "changed")
    llava.path.unlink()
    assert_refused(lambda: source[0], llava.path, "as it was")


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every file that is read from end to end."""
    seen: list[Path] = []

    def count(path: Path, member: str | None = None) -> Iterator[Record]:
        seen.append(path)
        return stream_records(path, member)

    monkeypatch.setattr(record_file, "stream_records", count)
    return seen


def test_an_index_is_kept(llava: LlavaFolder, workdir: Path, passes: list[Path]) -> None:
    first = [example.pairs for example in map(llava.open(workdir).__getitem__, range(2))]
    again = llava.open(workdir)
    assert [again[0].pairs, again[1].pairs] == first
    assert len(passes) == 1
    assert [path.suffix for path in workdir.iterdir()] == [".npz"]  # nothing half-written stays


def test_an_index_is_made_again(llava: LlavaFolder, workdir: Path, passes: list[Path]) -> None:
    llava.open(workdir)
    llava.records.reverse()
    llava.write()  # the same size: only its time of change tells
    status = llava.path.stat()
    os.utime(llava.path, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))
    assert shade(llava.open(workdir), 0) == 20
    (kept,) = workdir.iterdir()
    for content in (b"", kept.read_bytes()[:100], b"not a zip"):
        kept.write_bytes(content)
        assert shade(llava.open(workdir), 0) == 20
    assert len(passes) == 5


def test_two_files_keep_two_indices(llava: LlavaFolder, tmp_path: Path, workdir: Path) -> None:
    other = LlavaFolder(tmp_path / "other")
    llava.open(workdir)
    other.open(workdir)
    assert len(list(workdir.iterdir())) == 2


def test_a_work_directory_that_cannot_be_made(llava: LlavaFolder, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert_refused(lambda: llava.open(tmp_path / "file" / "work"), "name a directory")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(
    records=st.lists(st.dictionaries(st.text(), json_values, max_size=3), max_size=4),
    how=st.sampled_from(sorted(WRITERS)),
    window_bytes=st.integers(1, 40),
    member=st.booleans(),
)
def test_offsets_point_at_the_records(
    records: list[dict[str, Any]],
    how: str,
    window_bytes: int,
    member: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    whole = {"n": 12, "x": {"data": [1]}, "é": "data", "data": records, "z": 1}
    text = WRITERS[how](whole if member else records)
    data = text.encode("utf-8", "surrogatepass")
    path.write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "WINDOW_BYTES", window_bytes)
        found = list(stream_records(path, "data" if member else None))
    assert [record.fields for record in found] == records
    assert [json.loads(data[record.start : record.end]) for record in found] == records
    assert [record.number for record in found] == list(range(len(records)))


def test_a_large_file_is_not_held(tmp_path: Path, workdir: Path) -> None:
    rng = random.Random(0)
    filler = "".join(rng.choices(string.printable + "é{}", k=2000))
    record = json.dumps(conversation("a.png", "<image>\n" + filler, filler))
    path = tmp_path / "large.json"
    count = 20_000_000 // len(record)
    path.write_text("[" + ",\n".join([record] * count) + "]")
    tracemalloc.start()
    try:
        records = RecordFile(path, workdir, "llava-1", llava_json._summary)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert path.stat().st_size > 19e6
    assert len(records) == count
    assert peak < 3e6
