"""Links between documents lead somewhere, headings included; the README is short."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import aligned_vq
from tests.documents.reading import DOCUMENTS, ROOT, blocks

LINK = re.compile(r"\]\(([^)\s]+)\)")
README_BYTES = 8 * 1024


def prose(document: Path) -> str:
    """The text without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(document: Path) -> set[str]:
    """What headings are called in links."""
    headings = re.findall(r"^#+ (.*)$", prose(document), re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_its_links_lead_somewhere(document: Path) -> None:
    for link in LINK.findall(prose(document)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_in_the_table_of_contents() -> None:
    index = ROOT / "docs" / "index.md"
    listed = {line for text in blocks(index, "{toctree}") for line in text.splitlines()}
    pages = {path.relative_to(index.parent).with_suffix("") for path in index.parent.rglob("*.md")}
    assert {str(page) for page in pages} - {"index"} <= listed


def test_the_readme_is_short() -> None:
    assert (ROOT / "README.md").stat().st_size <= README_BYTES


def test_the_changelog_ends_its_unreleased_part_with_this_version() -> None:
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    assert re.fullmatch(
        rf"\[{re.escape(aligned_vq.__version__)}\] - \d{{4}}-\d\d-\d\d", headings[1]
    )
