"""LLaVA's conversations: what is read from them, and how a malformed one is named."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from aligned_vq.data.examples import ExampleSource, QuestionAnswer
from aligned_vq.data.sources import open_source
from tests.data.source_files import (
    TRICKY,
    WRITERS,
    LlavaFolder,
    assert_refused,
    conversation,
    paint,
    shade,
)


@pytest.mark.parametrize("how", WRITERS)
@pytest.mark.usefixtures("window")
def test_llava_conversations(llava: LlavaFolder, workdir: Path, how: str) -> None:
    llava.write(how)
    source = llava.open(workdir)
    assert len(source) == 2
    assert [shade(source, 0), shade(source, 1)] == [10, 20]
    assert source[0].pairs == ((TRICKY, "x " + TRICKY), ("What </s>?", ""))
    assert source[1].pairs == (QuestionAnswer("What <image> is?", "A \\ tag."),)
    assert shade(source, -1) == 20
    with pytest.raises(IndexError):
        source[2]


@pytest.mark.parametrize(
    ("value", "question"),
    [
        ("<image>\nQ", "Q"),
        ("<image>\r\nQ\n", "Q\n"),
        ("Q\n<image>", "Q"),
        ("<image> Q <image>", "Q <image>"),
        ("Q", "Q"),
        ("a <image> b", "a <image> b"),
        ("<image>", ""),
    ],
)
def test_the_image_marker(llava: LlavaFolder, workdir: Path, value: str, question: str) -> None:
    llava.records = [conversation("a.png", "first", "1", value, "<image>\nkept")]
    llava.write()
    assert llava.open(workdir)[0].pairs[1] == (question, "<image>\nkept")


def test_text_only_records_are_counted(
    llava: LlavaFolder, workdir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    llava.records.append(conversation(None, "and this", "one", "is odd") | {"image": None})
    llava.write()
    with caplog.at_level("INFO", "aligned_vq"):
        assert len(llava.open(workdir)) == 2
    assert len([r for r in caplog.messages if "2 conversations" in r and "2 records" in r]) == 1


def test_llava_images_from_another_folder(llava: LlavaFolder, workdir: Path) -> None:
    elsewhere = llava.folder.parent / "pictures"
    paint(elsewhere / "a.png", 77)
    paint(elsewhere / "sub/b.png", 88)
    source = open_source(f"llava:{llava.path}#{elsewhere}", workdir)
    assert [shade(source, 0), shade(source, 1)] == [77, 88]


MALFORMED: dict[str, tuple[dict[str, Any], str]] = {
    "no turns": ({"conversations": []}, "'conversations'"),
    "no list": ({"conversations": "hello"}, "'conversations'"),
    "no dicts": ({"conversations": ["hello", "you"]}, "'conversations'"),
    "odd": ({"conversations": [{"from": "human", "value": "q"}]}, "alternation"),
    "order": (conversation("a.png", "q", "a") | {"conversations": [{"from": "gpt"}] * 2}, "gpt"),
    "value": ({"conversations": [{"from": "human", "value": 3}, {"from": "gpt"}]}, "turn 0"),
    "half": (conversation("a.png", "q", "\ud83d"), "turn 1"),
    "image list": ({"image": ["a.png", "b.png"]}, "'image'"),
    "image empty": ({"image": ""}, "'image'"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_conversation_is_named(llava: LlavaFolder, workdir: Path, case: str) -> None:
    fields, word = MALFORMED[case]
    llava.records += [llava.records[0] | fields | {"id": "bad-one"}]
    llava.write()
    assert_refused(
        lambda: llava.open(workdir),
        llava.path,
        "record 3",
        "bad-one",
        word,
        "correct or remove the record",
    )


def test_pickled_and_read_by_threads(llava: LlavaFolder, workdir: Path) -> None:
    source = llava.open(workdir)
    data = pickle.dumps(source)
    assert len(data) < 2000
    copy: ExampleSource = pickle.loads(data)
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda index: copy[index % 2].pairs, range(200)))
    assert found == [source[0].pairs, source[1].pairs] * 100
