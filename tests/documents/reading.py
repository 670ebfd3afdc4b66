"""Documents, and what stands in them: blocks of code, spans of code, commands and links."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    *sorted(path for path in ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "benchmarks" / "README.md",
    ROOT / "benchmarks" / "RESULTS.md",
    ROOT / "examples" / "README.md",
    ROOT / "protos" / "README.md",
]
SHELL = ("", "sh", "bash", "console")
_BLOCK = re.compile(r"^```([^\n`]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SEPARATORS = frozenset("|;&<>()")


class Command(NamedTuple):
    """One command as it is written in a document, comments and redirections left out."""

    document: Path
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.document.relative_to(ROOT)}: {' '.join(self.words)}"


def blocks(document: Path, *languages: str) -> list[str]:
    """The fenced blocks of these languages; an empty one is of no language."""
    return [code for name, code in _BLOCK.findall(document.read_text()) if name in languages]


def spans(document: Path) -> list[str]:
    """Code between backticks, outside of blocks, on one line each."""
    prose = _BLOCK.sub("", document.read_text())
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose)]


def split_commands(document: Path, text: str) -> Iterator[Command]:
    """The simple commands of a text of shell; ValueError where a quote is not closed."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.wordchars += "{}[],:@%$"
        words = list(lexer)
        while words:
            own = list(takewhile(lambda word: not _SEPARATORS.issuperset(word), words))
            words = words[len(own) + 1 :]
            if own:
                yield Command(document, tuple(own))


def block_commands() -> list[Command]:
    """Every command of every block of shell that is no drawing."""
    texts = [(own, text) for own in DOCUMENTS for text in blocks(own, *SHELL)]
    return [
        command
        for document, text in texts
        if not re.search(r"[─═│┌└]|->|^        ", text)
        for command in split_commands(document, text)
    ]
