"""Files that people write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aligned_vq.errors import ConfigError
from aligned_vq.files.yaml_file import mapping, read_yaml


def parsed(loaded: Any) -> list[str]:
    return list(mapping(loaded, "a menu", ("soup", "bread")))


def test_a_file_is_parsed(tmp_path: Path) -> None:
    path = tmp_path / "menu.yaml"
    path.write_text("bread: 1\nsoup: 2\n")
    assert read_yaml(path, parsed) == ["bread", "soup"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"bread: [", "expected a YAML file"),
        (b"\xff\xfe\x00", "expected a YAML file"),
        (b"- bread", "a menu must be a mapping, got \\['bread'\\]"),
        (b"beer: 1", "unknown key beer in a menu: expected one of soup, bread"),
        (b"1: 1", "unknown key 1 in a menu"),
        (b"soup: 1\nbread: 2\nsoup: 3\n", "'soup' occurs twice, again in line 3"),
        (b"soup: {a: 1, a: 2}", "'a' occurs twice"),
        (b"soup: 2021-99-99", "expected a YAML file that can be read .month"),
        (b"[" * 3000, "expected a YAML file that can be read"),
        (b"!!map [1, 2]", "expected a YAML file"),
        (b"", "a menu must be a mapping, got None"),
    ],
)
def test_an_error_names_the_file(tmp_path: Path, text: bytes, words: str) -> None:
    path = tmp_path / "menu.yaml"
    path.write_bytes(text)
    with pytest.raises(ConfigError, match=words) as caught:
        read_yaml(path, parsed)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_what_is_merged_may_be_named_again(tmp_path: Path) -> None:
    path = tmp_path / "menu.yaml"
    path.write_text(
        "soup: &a {x: 1}\nbread:\n  b: &b {<<: *a, x: 2}\n  c: {<<: *b, x: 3, 1: 1, '1': 2}\n"
    )
    bread = read_yaml(path, lambda loaded: loaded["bread"])
    assert bread == {"b": {"x": 2}, "c": {"x": 3, 1: 1, "1": 2}}


def test_a_missing_file_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_yaml(tmp_path / "none.yaml", parsed)
