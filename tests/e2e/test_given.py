"""Questions about pictures that were encoded before: payloads and `.avq` files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from aligned_vq.bitstream import to_frame
from aligned_vq.errors import AlignedVQError, CorruptPayload, InvalidInput, ManifestMismatch
from benchmarks.harness.processes import CloudProcess
from edge_client import EdgeClient
from edge_client.input.payload_source import MAX_FRAME_BYTES
from tests.e2e.raw import GOOD_QUESTION, assert_clear, picture


def test_all_forms_of_a_picture_are_answered_alike(
    cloud: CloudProcess, bundle_directory: Path, tmp_path: Path
) -> None:
    with EdgeClient(cloud.target, bundle_directory) as client:
        expected = client.ask(picture(), GOOD_QUESTION, max_tokens=6)
        encoded = client.compress(picture())
        path = tmp_path / "picture.avq"
        path.write_bytes(to_frame(encoded.payload))
        for given in (encoded, encoded.payload, path, str(path)):
            answer = client.ask(given, GOOD_QUESTION, max_tokens=6)
            assert answer == expected
            assert answer.details.token_ids == expected.details.token_ids
        assert client.compress(path).payload == encoded.payload


def test_a_payload_is_sent_once(cloud: CloudProcess, bundle_directory: Path) -> None:
    with EdgeClient(cloud.target, bundle_directory) as client:
        payload = client.compress(picture(77)).payload
        sent = [client.ask(payload, GOOD_QUESTION).details.payload_bytes for _ in range(2)]
    assert sent == [len(payload.body), 0]


def huge(path: Path) -> None:
    path.touch()
    os.truncate(path, MAX_FRAME_BYTES + 1)  # sparse: it takes no room


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        (CorruptPayload, lambda path: path.write_bytes(b"no payload")),
        (InvalidInput, lambda path: None),
        (InvalidInput, Path.mkdir),
        (InvalidInput, os.mkfifo),
        (InvalidInput, huge),
    ],
)
def test_what_is_no_payload_file(
    kind: type[AlignedVQError],
    make: Callable[[Path], object],
    bundle_directory: Path,
    tmp_path: Path,
) -> None:
    path = tmp_path / "picture.avq"
    make(path)
    with EdgeClient("127.0.0.1:1", bundle_directory) as client, pytest.raises(kind) as caught:
        client.ask(path, GOOD_QUESTION)
    assert_clear(str(caught.value))


def test_a_payload_of_another_bundle(
    bundle_directory: Path, identity_bundle_directory: Path
) -> None:
    with (
        EdgeClient("127.0.0.1:1", bundle_directory) as client,
        EdgeClient("127.0.0.1:1", identity_bundle_directory) as other,
    ):
        payload = other.compress(picture()).payload
        with pytest.raises(ManifestMismatch) as caught:
            client.ask(payload, GOOD_QUESTION)
    assert_clear(str(caught.value))
