"""Images as index arrays: what a payload says, what is let in, and that it rebuilds the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from aligned_vq.calibration.codec import CutFeatures
from aligned_vq.codec.bundle import CloudBundle, open_cloud_bundle, open_edge_bundle
from aligned_vq.errors import ConfigError, CorruptPayload, ManifestMismatch
from aligned_vq.types import Payload
from cloud_server.config import CloudConfig
from cloud_server.decode.image_decoder import EngineImage
from cloud_server.decode.index_arrays import (
    IndexLayout,
    IndexReader,
    NamedIndices,
    indices_from_url,
)
from cloud_server.serving_backends import load
from tests.conftest import NUM_TOKENS

SHAPE = (NUM_TOKENS, 2)


@pytest.fixture(scope="module")
def bundle(bundle_directory: Path) -> CloudBundle:
    return open_cloud_bundle(bundle_directory)


@pytest.fixture(scope="module")
def layout(bundle: CloudBundle) -> IndexLayout:
    return IndexLayout.of(bundle.manifest)


@pytest.fixture(scope="module")
def payloads(bundle_directory: Path, examples: CutFeatures) -> list[Payload]:
    codec = open_edge_bundle(bundle_directory).codec
    points = ["adaptive", "fixed", "first"]
    pairs = zip(examples.features[:3], examples.residual[:3], points, strict=True)
    return [codec.compress(features, rest, point=point) for features, rest, point in pairs]


def test_payloads_become_indices_that_rebuild_the_same_features(
    bundle: CloudBundle, layout: IndexLayout, payloads: list[Payload]
) -> None:
    read = IndexReader(bundle.codec, layout).decode_many(payloads)
    images = [own.engine_input for own in read if isinstance(own, EngineImage)]
    assert [(image.dtype, image.shape) for image in images] == [(torch.int16, SHAPE)] * 3
    uncovered = [int((image == -1).sum()) for image in images]
    assert 0 < uncovered[0] < NUM_TOKENS
    assert uncovered[1:] == [0, NUM_TOKENS]
    expected = bundle.codec.decode_many([bundle.codec.unpack(own) for own in payloads])
    found = bundle.codec.rebuild(*layout.stages(torch.stack(images)))
    for own, other in zip(found, expected, strict=True):
        assert torch.equal(own, other)


def test_a_bad_payload_does_not_spoil_the_others(
    bundle: CloudBundle, layout: IndexLayout, payloads: list[Payload]
) -> None:
    good = payloads[0]
    damaged = replace(good, crc32=good.crc32 ^ 1)
    strange = replace(good, manifest_digest=bytes(16))
    found = IndexReader(bundle.codec, layout).decode_many([damaged, good, strange])
    assert [type(own) for own in found] == [CorruptPayload, EngineImage, ManifestMismatch]


def test_over_http_and_back(layout: IndexLayout) -> None:
    image = torch.randint(0, 32, SHAPE).short()
    image[3:9, 1] = -1
    named = indices_from_url(layout.url(image))
    assert torch.equal(layout.checked(named), image)
    other = replace(layout, manifest_digest=bytes(16))
    with pytest.raises(ValueError, match="the same bundle"):
        other.checked(named)
    with pytest.raises(ValueError, match="got 10"):
        layout.checked(NamedIndices(layout.manifest_digest, bytes(10)))


@pytest.mark.parametrize("shape", [SHAPE, (1, *SHAPE)])
def test_tensors_and_arrays_are_let_in(layout: IndexLayout, shape: tuple[int, ...]) -> None:
    array = np.zeros(shape, np.int16)
    assert layout.checked(array).shape == SHAPE
    assert layout.checked(torch.from_numpy(array)).shape == SHAPE


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (Image.new("RGB", (56, 56)), "got Image"),
        (torch.zeros(3, 56, 56, dtype=torch.uint8), "got uint8"),
        (torch.zeros(1, NUM_TOKENS - 1, 32), "got float32"),
        (np.zeros(SHAPE, np.int64), "got int64"),
        (torch.zeros(SHAPE, dtype=torch.int16, device="meta"), "expected codebook indices"),
        (np.zeros((NUM_TOKENS, 3), np.int16), "got shape"),
        (np.zeros((2, *SHAPE), np.int16), "got shape"),
        (np.full(SHAPE, 32, np.int16), "got .32, 32. to .32, 32."),
        (np.full(SHAPE, -2, np.int16), "expected indices from -1"),
        ("data:image/png;base64,AAAA", "got str"),
        (None, "got NoneType"),
    ],
)
def test_anything_else_is_refused(layout: IndexLayout, image: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        layout.checked(image)


def test_a_stage_covers_all_groups_of_a_token_or_none() -> None:
    layout = IndexLayout(bytes(16), 2, 2, (8, 8, 8, 8))
    good = np.array([[0, 1, 2, 3], [4, 5, -1, -1]], np.int16)
    indices, masks = layout.stages(layout.checked(good)[None])
    assert [own.shape for own in indices] == [(1, 2, 2)] * 2
    assert [own.tolist() for own in masks] == [[[True, True]], [[True, False]]]
    good[0, 1] = -1
    with pytest.raises(ValueError, match="all groups"):
        layout.checked(good)


def test_a_worker_never_fails_over_an_index(bundle: CloudBundle, layout: IndexLayout) -> None:
    worst = torch.full((1, *SHAPE), 32_767, dtype=torch.int16)
    features, residual = bundle.codec.rebuild(*layout.stages(worst))
    assert bool(torch.isfinite(features).all() and torch.isfinite(residual).all())


@pytest.mark.parametrize(
    "url",
    [
        "data:image/png;base64,AAAA",
        "http://127.0.0.1:1/picture.png",
        "file:///etc/passwd",
        "data:application/vnd.aligned-vq.indices;base64,AAAA",
        "data:application/vnd.aligned-vq.indices;manifest=" + 32 * "0" + ";base64,A*A=",
    ],
)
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="images are not accepted"):
        indices_from_url(url)


def test_bundles_that_send_more_than_indices(
    bundle: CloudBundle, identity_bundle_directory: Path, llava_directory: Path
) -> None:
    config = CloudConfig(identity_bundle_directory, str(llava_directory), engine="vllm")
    with pytest.raises(ConfigError, match="engine 'transformers'"):
        load(config)
    with pytest.raises(ConfigError, match="'statistics'"):
        IndexLayout.of(replace(bundle.manifest, link="statistics"))
    sizes = replace(bundle.manifest.quantizer, codebook_sizes=(65_536, 32))
    with pytest.raises(ConfigError, match="at most 32768"):
        IndexLayout.of(replace(bundle.manifest, quantizer=sizes))


def test_several_bundles_and_other_towers(
    bundle_directory: Path, llava_directory: Path, tmp_path: Path
) -> None:
    model = str(llava_directory)
    both = CloudConfig(bundle_directory, model, (bundle_directory,), engine="replicas")
    with pytest.raises(ConfigError, match="one bundle"):
        load(both)
    reference = Path("aligned_vq/reference/bundle").resolve()
    with pytest.raises(ManifestMismatch, match="the checkpoint the bundle was made from"):
        load(CloudConfig(reference, model, engine="vllm"))
    with pytest.raises(ConfigError, match="transformers can load"):
        load(CloudConfig(bundle_directory, str(tmp_path), engine="vllm"))
