"""VQAv2: its questions and answers brought together, and files that do not fit."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from aligned_vq.data.sources import open_source
from tests.data.source_files import TRICKY, WRITERS, VqaFolder, assert_refused, shade


@pytest.fixture
def vqa(tmp_path: Path) -> VqaFolder:
    return VqaFolder(tmp_path / "vqa")


@pytest.mark.parametrize("how", WRITERS)
@pytest.mark.usefixtures("window")
def test_vqav2_groups_the_questions_of_an_image(vqa: VqaFolder, workdir: Path, how: str) -> None:
    vqa.write(how)
    opened = vqa.open(workdir)
    for source in (opened, pickle.loads(pickle.dumps(opened)), vqa.open(workdir)):
        assert len(source) == 2
        assert source[0].pairs == (("Is it?", "yes"),)
        assert source[1].pairs == ((TRICKY, "é"), ("How?", "2"))
        assert [shade(source, 0), shade(source, 1)] == [9, 524291 % 251]
        with pytest.raises(IndexError):
            source[2]


def test_vqav2_of_another_split(tmp_path: Path, workdir: Path) -> None:
    vqa = VqaFolder(tmp_path / "vqa", "val2014")
    assert len(open_source(f"vqav2:{vqa.folder}#val2014", workdir)) == 2
    assert_refused(lambda: open_source(f"vqav2:{vqa.folder}#test2015", workdir), "test2015")
    assert_refused(lambda: vqa.open(workdir), "train2014_questions.json", "visualqa.org")


def test_vqav2_files_that_do_not_go_together(vqa: VqaFolder, workdir: Path) -> None:
    lost = vqa.annotations.pop()
    vqa.write()
    assert_refused(
        lambda: vqa.open(workdir), *vqa.paths(), "1 ids", lost["question_id"], "one release"
    )
    vqa.annotations.append(lost | {"image_id": 9})
    vqa.write()
    assert_refused(lambda: vqa.open(workdir), *vqa.paths(), "same images")


@pytest.mark.parametrize(
    "fields",
    [
        {"question": None},
        {"question": "\udc00"},
        {"image_id": "9"},
        {"image_id": -1},
        {"image_id": 2**63},
        {"image_id": True},
        {"question_id": 1.5},
    ],
    ids=str,
)
def test_a_malformed_question_is_named(
    vqa: VqaFolder, workdir: Path, fields: dict[str, Any]
) -> None:
    vqa.questions[1].update(fields)
    vqa.write()
    assert_refused(lambda: vqa.open(workdir), vqa.paths()[0], "record 1", next(iter(fields)))


def test_vqav2_without_its_parts(vqa: VqaFolder, workdir: Path) -> None:
    questions, annotations = vqa.paths()
    for text, word in (('{"info": 1}', "'questions'"), ("[]", "'{'"), ("{1: 2}", "'questions'")):
        questions.write_text(text)
        assert_refused(lambda: vqa.open(workdir), questions, word)
    vqa.write()
    vqa.image(9).unlink()
    assert_refused(lambda: vqa.open(workdir), "id 90", vqa.image(9), "train2014.zip")
    annotations.unlink()
    assert_refused(lambda: vqa.open(workdir), annotations)
