"""A cloud that knows of no modality answers questions about depth maps."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aligned_vq.graph.modality_bundle import write_modality
from benchmarks.harness.processes import CloudProcess
from edge_client import AsyncEdgeClient, EdgeClient
from tests.modalities import ROOM, changed_prefix, depth_png
from tests.watch.process import WatchProcess

QUESTION = "How many boxes are there?"


@pytest.fixture(scope="module")
def depth_bundle(bundle_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cloud's bundle with a prefix for depth, which the cloud's copy lacks."""
    out = tmp_path_factory.mktemp("depth") / "bundle"
    # Much noise, as the few codebook entries of this bundle hide a little.
    prefix = changed_prefix(bundle_directory, strength=0.5)
    write_modality(bundle_directory, prefix, "depth", ROOM, out)
    return out


def test_one_cloud_answers_about_every_modality(
    cloud: CloudProcess, bundle_directory: Path, depth_bundle: Path, tmp_path: Path
) -> None:
    depth = depth_png(tmp_path / "depth.png")
    colour = np.random.default_rng(2).integers(0, 256, (60, 70, 3), np.uint8)
    with EdgeClient(cloud.target, bundle_directory) as client:
        expected = client.ask(colour, QUESTION, max_tokens=6)
    with EdgeClient(cloud.target, depth_bundle) as client:
        client.check()
        answer = client.ask(depth, QUESTION, modality="depth", max_tokens=6)
        again = client.ask(depth, QUESTION, modality="depth", max_tokens=6)
        assert client.ask(colour, QUESTION, max_tokens=6).details.token_ids == (
            expected.details.token_ids
        )
        as_colour = client.view(depth, "depth").pixels
        other = client.compress(as_colour).payload
        assert other != client.compress(depth, modality="depth").payload
    assert answer.details.payload_bytes > 0
    assert (again, again.details.payload_bytes) == (answer, 0)

    async def ask() -> str:
        async with AsyncEdgeClient(cloud.target, depth_bundle) as client:
            encoded = await client.compress(depth, modality="depth")
            assert await client.ask(encoded, QUESTION, max_tokens=6) == answer
            return await client.ask(depth, QUESTION, modality="depth", max_tokens=6)

    assert asyncio.run(ask()) == answer


def test_a_folder_of_depth_maps_is_watched(
    cloud: CloudProcess, depth_bundle: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "maps"
    folder.mkdir()
    depth_png(folder / "a.png")
    Image.new("RGB", (8, 8)).save(folder / "b.png")
    options = ("--once", "--modality=depth", "--on_change", f"--queue={tmp_path / 'queue'}")
    with WatchProcess(folder, cloud.target, depth_bundle, *options) as watch:
        assert watch.process.wait(60) == 0
        watch.until_lines(2)
    assert [line["file"] for line in watch.answers()] == ["a.png"]
    assert [line["file"] for line in watch.errors()] == ["b.png"]
