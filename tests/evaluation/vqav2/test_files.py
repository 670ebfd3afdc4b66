"""The official files as the evaluation reads them, the reference world in them, and bad ones."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from aligned_vq.cli import main
from aligned_vq.data.scenes.exam import exam_images
from aligned_vq.data.sources import open_source
from aligned_vq.data.vqav2_files import annotations_path, image_path, questions_path
from aligned_vq.errors import ConfigError
from aligned_vq.evaluation.vqav2.files import PEOPLE, VqaSplit
from aligned_vq.evaluation.vqav2.metric import question_accuracy
from aligned_vq.evaluation.vqav2.world import SPLIT, write_world
from aligned_vq.shipped import BUNDLE
from tests.evaluation.vqav2.conftest import QUESTIONS
from tests.evaluation.vqav2.folder import arguments, changed, evaluated


@pytest.fixture
def own(world: Path, tmp_path: Path) -> Path:
    """A copy of the world to break."""
    return shutil.copytree(world, tmp_path / "own")


def test_the_world_has_the_official_form(world: Path) -> None:
    asked = json.loads(questions_path(world, SPLIT).read_text())
    answered = json.loads(annotations_path(world, SPLIT).read_text())
    shared = {"info", "license", "data_type", "data_subtype"}
    assert set(asked) == shared | {"task_type", "questions"}
    assert set(answered) == shared | {"annotations"}
    assert asked["data_subtype"] == answered["data_subtype"] == SPLIT
    assert "neither VQA v2.0 nor COCO" in asked["info"]["description"]
    assert set(asked["questions"][0]) == {"question_id", "image_id", "question"}
    for record in answered["annotations"]:
        given = Counter(person["answer"] for person in record["answers"])
        assert given.most_common(1)[0][0] == record["multiple_choice_answer"]
        assert [person["answer_id"] for person in record["answers"]] == list(range(1, PEOPLE + 1))
        assert {person["answer_confidence"] for person in record["answers"]} <= {
            "yes",
            "maybe",
            "no",
        }
        assert record["answer_type"] in ("yes/no", "number", "other")
    unanimous = sum(
        len({person["answer"] for person in record["answers"]}) == 1
        for record in answered["annotations"]
    )
    assert QUESTIONS / 4 < unanimous < 3 * QUESTIONS / 4
    with Image.open(image_path(world, SPLIT, 1)) as picture:
        assert (picture.format, picture.size) == ("JPEG", (336, 336))


def test_the_same_world_is_the_same_bytes(world: Path, tmp_path: Path) -> None:
    write_world(tmp_path, QUESTIONS)
    for path in world.rglob("*.*"):
        assert (tmp_path / path.relative_to(world)).read_bytes() == path.read_bytes()


def test_true_answers_are_right_and_training_reads_the_same(world: Path, tmp_path: Path) -> None:
    split = VqaSplit(world, SPLIT, tmp_path)
    truths = {
        question.text: question.answer
        for image in exam_images(QUESTIONS)
        for question in image.questions[:-1]
    }
    read = [q for index in range(len(split.image_ids)) for q in split.questions(index)]
    assert [question.question_id for question in read] == split.ids_in_file()
    source = open_source(f"vqav2:{world}#{SPLIT}", tmp_path)
    pairs = [pair for index in range(len(source)) for pair in source[index].pairs]
    assert [pair.text for pair in pairs] == [question.text for question in read]
    judged = {judgement.question_id: judgement for judgement in split.human_answers()}
    for question, pair in zip(read, pairs, strict=True):
        assert question_accuracy(pair.answer, judged[question.question_id].answers) == 1
    assert {pair.answer for pair in pairs} <= set(truths.values())


def test_a_limit_takes_the_first_questions(world: Path, tmp_path: Path) -> None:
    split = VqaSplit(world, SPLIT, tmp_path, 10)
    assert (len(split), len(list(split.human_answers())), split.is_whole) == (10, 10, False)
    assert split.ids_in_file() == VqaSplit(world, SPLIT, tmp_path).ids_in_file()[:10]


PERSON = {"answer": "yes", "answer_confidence": "yes", "answer_id": 1}


@pytest.mark.parametrize(
    ("member", "fields", "words"),
    [
        ("questions", {"question": None}, "'question' to be text"),
        ("questions", {"image_id": "1"}, "'image_id' to be a whole number"),
        ("questions", {"question_id": 1000}, "1 ids more than once, such as 1000"),
        ("questions", {"question_id": 77}, "in one only, such as 77"),
        ("annotations", {"answer_type": None}, "'answer_type' to be text"),
        ("annotations", {"question_type": 3}, "'question_type' to be text"),
        ("annotations", {"answers": None}, "those of 10 people"),
        ("annotations", {"answers": [PERSON] * 9}, "those of 10 people"),
        ("annotations", {"answers": ["yes"] * 10}, "those of 10 people"),
        ("annotations", {"answers": [PERSON] * 10}, "another 'answer_id'"),
        ("annotations", {"image_id": 9}, "same images"),
        (
            "annotations",
            {"answers": [PERSON | {"answer": 2, "answer_id": n} for n in range(10)]},
            "an 'answer' to be text",
        ),
    ],
)
def test_malformed_files_are_named(
    own: Path, tmp_path: Path, member: str, fields: dict[str, Any], words: str
) -> None:
    changed(own, member, 3, **fields)
    with pytest.raises(ConfigError, match=words) as caught:
        list(VqaSplit(own, SPLIT, tmp_path / "work").human_answers())
    assert f"{member}.json" in str(caught.value)


def test_what_is_missing_is_told_in_one_line(
    own: Path, llava_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"

    def refused(*options: str) -> str:
        assert main(arguments(own, out, llava_directory, "--bundles", *options)) == 1
        (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
        return line

    assert "val2014" in refused("--split=val2015")
    assert "test2015_questions.json" in refused("--split=test2015")
    assert "--bundles" in refused("--target=127.0.0.1:1")
    assert "tls with ca" in refused("--target=127.0.0.1:1", f"--bundles={BUNDLE}", "--ca=ca.pem")
    assert "--baselines" in refused("--baselines")
    assert "max_tokens" in refused("--max_tokens=0")
    assert "--out" in _without_out(own, capsys)
    image_path(own, SPLIT, 2).unlink()
    assert "val2014.zip" in refused()
    write_world(own, 20)  # another file of questions under answers that are there
    assert ", got questions '" in refused()


def _without_out(data: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["eval", "--benchmark=vqav2", f"--data={data}"]) == 1
    return capsys.readouterr().err


def test_answers_asked_otherwise_are_not_mixed(
    world: Path, llava_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = (world, tmp_path, llava_directory, "--bundles", "--questions=8")
    assert evaluated(*common, "--suffix=")["suffix"] == ""
    assert main(arguments(*common)) == 1
    assert "suffix '', got suffix '\\nAnswer" in capsys.readouterr().err
    log = tmp_path / "unsplit" / "answers-000.jsonl"
    log.write_text("nonsense\n" + log.read_text())
    assert main(arguments(*common, "--suffix=")) == 1
    assert "line 1: expected an answer" in capsys.readouterr().err


def test_a_test_split_is_made_ready_for_the_server(
    world: Path, llava_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    asked = json.loads(questions_path(world, SPLIT).read_text()) | {"data_type": "mscoco"}
    for question in asked["questions"]:
        path = image_path(data, "test-dev2015", question["image_id"])
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(image_path(world, SPLIT, question["image_id"]))
    dev = asked | {"questions": asked["questions"][20:36]}
    questions_path(data, "test-dev2015").write_text(json.dumps(dev))
    common = (data, tmp_path / "out", llava_directory, "--bundles", "--split=test-dev2015")

    figures = evaluated(*common)
    assert figures["rows"][0]["accuracies"] is None
    assert figures["rows"][0]["split"] == "test-dev2015"
    assert "every question of test2015" in capsys.readouterr().out
    assert len(json.loads(Path(figures["rows"][0]["results"]).read_text())) == 16

    questions_path(data, "test2015").write_text(json.dumps(asked))
    figures = evaluated(*common)
    told = capsys.readouterr().out
    assert "https://eval.ai/" in told
    assert "Test-Dev" in told
    found = json.loads(Path(figures["rows"][0]["results"]).read_text())
    assert len(found) == QUESTIONS
    assert all(entry["answer"] == "" for entry in (*found[:20], *found[36:]))
    assert any(entry["answer"] for entry in found[20:36])
