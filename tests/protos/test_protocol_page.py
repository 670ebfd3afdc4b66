"""The numbers of docs/protocol.md are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

from aligned_vq.bitstream import BITSTREAM_VERSION
from aligned_vq.bitstream.frame import _HEADER, CODING_NUMBERS, HEADER_BYTES, MAGIC
from protos.alignedvq.v1 import inference_pb2 as pb
from protos.convert import CODINGS
from protos.status import ERROR_KEY, RETRY_KEY

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "protocol.md").read_text()


def table(heading: str) -> list[list[str]]:
    """The rows of the table below a heading."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = section.splitlines()
    rows = [line.strip("|").split("|") for line in lines if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def test_both_numberings_of_codings() -> None:
    rows = table("Codings")
    assert {name.strip("`"): int(wire) for name, wire, _, _ in rows} == CODINGS
    assert {name.strip("`"): int(file) for name, _, file, _ in rows} == CODING_NUMBERS
    assert all(int(wire) == int(file) + 1 for _, wire, file, _ in rows)
    assert len(rows) == len(pb.Coding.values()) - 1  # and none for "unspecified"


def test_the_frame_of_a_file() -> None:
    rows = table("The file")
    widths = [int(row[1] or 0) for row in rows]
    assert [int(row[0]) for row in rows] == [sum(widths[:at]) for at in range(len(rows))]
    assert sum(widths) == HEADER_BYTES == int(rows[-1][0])
    letters = {"4s": 4, "B": 1, "H": 2, "I": 4, "16s": 16}
    assert widths[:-1] == [letters[one] for one in re.findall(r"\d*[a-zA-Z]", _HEADER.format)]
    assert MAGIC.hex(" ") in rows[0][2]
    assert str(BITSTREAM_VERSION) in rows[1][2]
    assert f"header of {HEADER_BYTES} bytes" in PAGE
    fields = {one.name for one in pb.PayloadHeader.DESCRIPTOR.fields}
    named = set(re.findall(r"`PayloadHeader\.(\w+)`", " ".join(row[3] for row in rows)))
    assert named == fields


def test_names_of_the_wire_exist() -> None:
    assert ERROR_KEY in PAGE
    assert RETRY_KEY in PAGE
    for message, field in re.findall(r"`([A-Z]\w+)\.(\w+)`", PAGE):
        if message == "SplitInference":
            continue
        assert field in pb.DESCRIPTOR.message_types_by_name[message].fields_by_name
    for link in re.findall(r"\]\(\.\./([^)]+)\)", PAGE):
        assert (ROOT / link).is_file(), link


def test_no_document_promises_deduplication() -> None:
    for path in ("protos/messages.py", "protos/alignedvq/v1/inference.proto", "README.md"):
        for line in (ROOT / path).read_text().splitlines():
            assert "for deduplication" not in line, path
