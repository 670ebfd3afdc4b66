"""Every input that ever broke something, the corpus, and varied seeds, without atheris."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

from tests.fuzz import __main__ as command
from tests.fuzz.target import HERE, Target, join, split
from tests.fuzz.targets import TARGETS

MAX_CORPUS_BYTES = 400_000
VARIED = 60


def plain_mutation(rng: random.Random, data: bytes, most: int) -> bytes:
    """A byte changed or put in, in place of the fuzzer's own mutation."""
    at = rng.randrange(len(data) + 1)
    return (data[:at] + rng.randbytes(1) + data[at + rng.randrange(2) :])[:most]


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_what_is_in_the_repository_breaks_nothing(target: Target) -> None:
    assert target.corpus(), "no inputs"
    for path in target.corpus():
        try:
            target.check(path.read_bytes())
        except Exception as error:
            raise AssertionError(f"{path.relative_to(HERE)}: {error!r}") from error


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_seeds_and_what_is_varied_from_them_break_nothing(target: Target) -> None:
    rng = random.Random(5)
    seeds = list(target.seeds())
    for seed in seeds:
        target.check(seed)
    varied = set()
    for _ in range(VARIED):
        data = target.vary(rng, rng.choice(seeds), lambda one, most: plain_mutation(rng, one, most))
        assert len(data) <= target.max_bytes
        varied.add(data)
        target.check(data)
    assert len(varied - set(seeds)) > VARIED // 2


def test_the_corpus_stays_small_and_belongs_to_targets() -> None:
    paths = [path for folder in ("cases", "corpus") for path in (HERE / folder).rglob("*")]
    assert sum(path.stat().st_size for path in paths if path.is_file()) <= MAX_CORPUS_BYTES
    assert {path.parent.name for path in paths if path.is_file()} == set(TARGETS)


def test_pieces_come_apart_as_they_were_joined() -> None:
    pieces = [b"", b"a" * 300, b"\0"]
    assert split(join(pieces)) == pieces
    assert split(b"\x05\0ab") == [b"ab"]
    assert split(b"\1") == [b""]


PLANTED = """
import sys
from dataclasses import replace
from tests.fuzz import guided
own = guided.TARGETS["files"]
guided.TARGETS["files"] = replace(own, check=lambda data: 1 // (data[1:2] != b"a"))
guided.main()
"""


def test_a_broken_target_leaves_its_input_and_says_how_to_repeat_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("atheris", reason="has wheels for Linux x86_64 only")
    monkeypatch.setattr(command, "GUIDED", ("-c", PLANTED))
    assert not command.fuzzed(TARGETS["files"], 60, tmp_path)
    (crash,) = (tmp_path / "crashes").iterdir()
    assert crash.name.startswith("files-crash-")
    assert crash.read_bytes()[1:2] == b"a"
    printed = capsys.readouterr().out
    assert "ZeroDivisionError" in printed
    assert f"-m tests.fuzz files --repeat {crash}" in printed


def test_one_input_can_be_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    case = HERE / "cases" / "wire" / "stage-times-above-64-bits"
    monkeypatch.setattr(sys, "argv", ["fuzz", "wire", "--repeat", str(case)])
    assert command.main() == 0


def test_without_atheris_the_command_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setattr(sys, "argv", ["fuzz"])
    assert command.main() == 2
    assert "pip install" in capsys.readouterr().err
