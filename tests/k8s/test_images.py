"""Images are named by digest, or by a placeholder that the guide tells one to replace."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.k8s.kustomize import MANIFESTS, OVERLAYS, overlay

PLACEHOLDERS = ("aligned-vq-cloud", "aligned-vq-edge", "aligned-vq-engine")
GUIDE = MANIFESTS.parents[1] / "docs" / "supply-chain.md"


def images(value: Any) -> Iterator[str]:
    """Of every container, at any depth."""
    if isinstance(value, dict):
        for key in ("containers", "initContainers"):
            for own in value.get(key, ()):
                yield own["image"]
        for each in value.values():
            yield from images(each)
    elif isinstance(value, list):
        for each in value:
            yield from images(each)


def is_pinned(image: str) -> bool:
    return image in PLACEHOLDERS or re.search(r"@sha256:[0-9a-f]{64}$", image) is not None


@pytest.mark.parametrize("name", OVERLAYS)
def test_images_are_placeholders_or_named_by_digest(name: str) -> None:
    found = list(images(overlay(name)))
    assert found
    assert all(map(is_pinned, found))


def test_a_tag_is_no_pin() -> None:
    assert is_pinned(f"registry.example.org/aligned-vq-cloud:1@sha256:{64 * 'a'}")
    for image in ("aligned-vq-cloud:1", "aligned-vq-cloud@sha256:abc", "python:3.11-slim"):
        assert not is_pinned(image)


def test_the_guide_names_every_placeholder() -> None:
    text = GUIDE.read_text()
    assert all(f"`{image}`" in text for image in PLACEHOLDERS)
