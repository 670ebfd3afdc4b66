"""Labels and sentences, as people and files give them."""

from __future__ import annotations

from pathlib import Path

import pytest

from aligned_vq.dual_encoder.prompts import check_labels, check_template, prompt, read_labels
from aligned_vq.errors import ConfigError, InvalidInput


def test_label_text_is_verbatim() -> None:
    assert check_labels([" café ", "bedroom/hotel"]) == ("café", "bedroom/hotel")
    family = "\U0001f468\u200d\U0001f469"  # joined by a character without width
    assert check_labels([family, "日本"]) == (family, "日本")
    assert prompt("bedroom/hotel") == "a photo of a bedroom/hotel"
    assert prompt("Office and Cubicles") == "a photo of an Office and Cubicles"
    assert prompt("island", "a satellite image of {article} {label}.") == (
        "a satellite image of an island."
    )


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], "1 to 1000 labels, got 0"),
        (["a"] * 10_000, "got 10000"),
        (["gym", " "], "labels with text"),
        (["Gym", "kitchen", "gym "], "got 'Gym' and 'gym ': remove one"),
        (["x" * 201], "at most 200 characters, got 201"),
        (["kitchen", "kitchen\u200b"], "remove one"),
        (["caf\u00e9", "cafe\u0301"], "remove one"),
        (["\u200b"], "labels with text"),
        (["a\ud800"], "printable characters"),
        (["red\nblue"], "on one line"),
        (["\x1b[31mred"], "printable characters"),
    ],
)
def test_unusable_labels(labels: list[str], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        check_labels(labels)


@pytest.mark.parametrize(
    "template",
    [
        "a photo",
        "{}",
        "{label",
        "{label} {colour}",
        "{label[0]}",
        "{label.x}",
        "{label!r}",
        "{label:.1}",
        "{label:>1000000000}",
        "{label:{article}}",
    ],
)
def test_unusable_templates(template: str) -> None:
    with pytest.raises(ConfigError, match="template with"):
        check_template(template)


def test_files_of_labels(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("# indoor\nkitchen\n\nbathroom\n", "utf-8")
    assert read_labels(path) == ("kitchen", "bathroom")
    path.write_text("classroom\nClassroom\n")
    with pytest.raises(ConfigError, match=r"labels.txt: expected distinct labels, got 'classroom'"):
        read_labels(path)
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="one entry per line"):
        read_labels(path)
