"""Every command in README and documents is one that the program takes."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import dropwhile
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import ArgumentParser

from aligned_vq import cli as aligned_vq_cli
from cloud_server import cli as cloud_cli
from edge_client import cli as edge_cli
from protos.access.tokens import parse_tokens
from tests.documents.reading import (
    DOCUMENTS,
    ROOT,
    Command,
    block_commands,
    blocks,
    spans,
    split_commands,
)

MAKEFILE = (ROOT / "Makefile").read_text()
PROGRAMS = ("aligned-vq", "edge-client", "cloud-server")
MODULES = {"aligned_vq.cli": "aligned-vq"}
"""Modules that are programs under another name, run by `accelerate launch -m`."""


def parser_of(program: str) -> ArgumentParser:
    build: dict[str, Callable[[], ArgumentParser]] = {
        "aligned-vq": aligned_vq_cli.build_parser,
        "edge-client": edge_cli._parser,
        "cloud-server": cloud_cli._parser,
    }
    return build[program]()


def program_call(words: tuple[str, ...]) -> tuple[str, list[str]] | None:
    """Which of our programs the words run, and with which arguments; None: none of them."""
    rest = list(dropwhile(lambda word: word in ("sudo", "nice") or "=" in word, words))
    if rest and Path(rest[0]).name in ("python", "accelerate") and "-m" in rest:
        rest = rest[rest.index("-m") + 1 :]
    name = MODULES.get(rest[0], Path(rest[0]).name) if rest else ""
    return (name, rest[1:]) if name in PROGRAMS else None


BLOCK_COMMANDS = block_commands()
CALLS = [own for own in BLOCK_COMMANDS if program_call(own.words)]
MODULE = re.compile(r"-m ((?:benchmarks|tests|cloud_server|lmms_eval)[.\w]*)")


def span_commands() -> list[Command]:
    """Commands in running text, which may leave things out."""
    found = []
    for document in DOCUMENTS:
        for span in spans(document):
            first = span.split(" ")[0]
            if " " in span and Path(first).name in PROGRAMS:
                found += list(split_commands(document, span))[:1]
    return found


@pytest.mark.parametrize("command", CALLS, ids=str)
def test_a_command_in_a_block_is_accepted(command: Command) -> None:
    program, arguments = program_call(command.words) or ("", [])
    parsed = parser_of(program).parse_args(arguments)
    assert parsed.subcommand


@pytest.mark.parametrize("command", span_commands(), ids=str)
def test_a_command_in_a_sentence_has_options_that_exist(command: Command) -> None:
    program, arguments = program_call(command.words) or ("", [])
    subcommand, *rest = arguments
    action: Any = parser_of(program)._subcommands_action
    choices = action._name_parser_map
    assert subcommand in choices
    options = [word.split("=")[0] for word in rest if word.startswith("-")]
    assert set(options) <= set(choices[subcommand]._option_string_actions)


def test_make_targets_exist() -> None:
    written = [" ".join(own.words) for own in BLOCK_COMMANDS]
    written += [span for document in DOCUMENTS for span in spans(document)]
    named = [re.match(r"make (?:-s )?([a-z-]+)", text) for text in written]
    targets = {match[1] for match in named if match}
    assert len(targets) > 10
    for target in targets:
        assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), target


def test_presets_of_make_bench_exist() -> None:
    text = "\n".join(document.read_text() for document in DOCUMENTS)
    presets = set(re.findall(r"PRESET=(\w+)", text))
    assert presets
    for preset in presets:
        assert (ROOT / "benchmarks" / "experiments" / f"{preset}.yaml").is_file(), preset


def test_modules_and_tests_that_are_run_exist() -> None:
    text = "\n".join(document.read_text() for document in DOCUMENTS)
    modules = set(MODULE.findall(text)) - {"lmms_eval"}
    assert len(modules) > 20
    for module in modules:
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module
    for path in re.findall(r"\b((?:tests|benchmarks/(?:experiments|sweeps|runs))/[\w/.*-]+)", text):
        assert list(ROOT.glob(path.rstrip("."))), path


def test_the_words_of_tokens_are_a_file_that_the_service_reads() -> None:
    (text,) = blocks(ROOT / "docs" / "serving.md", "yaml")
    holders = parse_tokens(text.encode(), Path("tokens.yaml"))
    assert {holder.name for holder in holders.values()} == {"camera-1", "camera-2"}


def test_there_are_commands_to_check() -> None:
    assert len(CALLS) > 40
