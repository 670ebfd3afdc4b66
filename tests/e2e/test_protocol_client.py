"""A client written from the .proto and docs/protocol.md alone.

`PageClient` uses nothing of this project but the generated code; the tests compare it with ours.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from aligned_vq.bitstream import pack, to_frame, unpack
from aligned_vq.codec.bundle_files import read_manifest, read_spec
from aligned_vq.types import Encoded, Payload, StageIndices
from benchmarks.harness.processes import CloudProcess
from edge_client import EdgeClient
from protos.alignedvq.v1 import inference_pb2 as pb
from protos.alignedvq.v1 import inference_pb2_grpc as rpc
from tests.e2e.raw import GOOD_QUESTION, picture

HEADER = struct.Struct("<4sBBHBII16sI")
Stage = tuple[list[bool] | None, list[list[int]]]
"""A mask, and the indices of each covered token."""


class PageClient:
    """Asks with payloads of its own making."""

    def __init__(self, target: str) -> None:
        self._channel = grpc.insecure_channel(target)
        self._stub: Any = rpc.SplitInferenceStub(self._channel)
        described = self._stub.GetManifest(pb.GetManifestRequest(), timeout=60)
        self.digest = described.manifest_digest
        manifest = json.loads(described.manifest_json)
        vision, quantizer = manifest["tower"]["vision"], manifest["quantizer"]
        self.tokens = (vision["image_size"] // vision["patch_size"]) ** 2 + 1
        self.sizes = quantizer["codebook_sizes"]
        self.groups = quantizer["num_groups"]

    def close(self) -> None:
        self._channel.close()

    def payload(self, stages: list[Stage]) -> tuple[pb.PayloadHeader, bytes]:
        """Header and body in fixed coding."""
        bits = ""
        for (mask, indices), size in zip(stages, self.sizes, strict=False):
            width = max(1, math.ceil(math.log2(size)))
            bits += "".join("01"[covered] for covered in mask or ())
            bits += "".join(f"{index:0{width}b}" for token in indices for index in token)
        bits += "0" * (-len(bits) % 8)
        body = bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8))
        header = pb.PayloadHeader(
            coding=pb.CODING_FIXED,
            num_tokens=self.tokens,
            num_stages=len(stages),
            masked_stages=sum(1 << s for s, (mask, _) in enumerate(stages) if mask is not None),
            body_bytes=len(body),
            crc32=zlib.crc32(body),
        )
        return header, body

    def from_file(self, data: bytes) -> tuple[pb.PayloadHeader, bytes]:
        """Header and body of a payload file."""
        magic, version, coding, tokens, stages, masked, crc, digest, length = HEADER.unpack_from(
            data
        )
        assert (magic, version, digest) == (b"\x93AVQ", 1, self.digest)
        header = pb.PayloadHeader(
            coding=coding + 1,
            num_tokens=tokens,
            num_stages=stages,
            masked_stages=masked,
            crc32=crc,
            body_bytes=length,
        )
        return header, data[HEADER.size :]

    def ask(self, question: str, header: pb.PayloadHeader, body: bytes) -> tuple[str, bytes]:
        """The answer, and the image's digest."""
        half = len(body) // 2
        opened = pb.QuestionOpen(
            manifest_digest=self.digest,
            question=question,
            sampling=pb.SamplingParams(max_tokens=5),
            payload=pb.PayloadPart(header=header, chunk=body[:half]),
        )
        requests = [
            pb.AskRequest(open=opened),
            pb.AskRequest(payload=pb.PayloadPart(chunk=body[half:])),
        ]
        return self._answer(requests)

    def ask_again(self, question: str, image_digest: bytes, request_id: str) -> tuple[str, bytes]:
        """The answer to another question about an image that the service holds."""
        opened = pb.QuestionOpen(
            request_id=request_id,
            manifest_digest=self.digest,
            question=question,
            sampling=pb.SamplingParams(max_tokens=5),
            image_digest=image_digest,
        )
        return self._answer([pb.AskRequest(open=opened)])

    def _answer(self, requests: list[pb.AskRequest]) -> tuple[str, bytes]:
        text = ""
        for response in self._stub.Ask(iter(requests), timeout=60):
            if response.HasField("done"):
                return text, response.done.image_digest
            text += response.chunk.text
        raise AssertionError("an answer without an end")


@pytest.fixture
def client(cloud: CloudProcess) -> Iterator[PageClient]:
    own = PageClient(cloud.target)
    yield own
    own.close()


def stages_of(client: PageClient) -> list[Stage]:
    """Indices by formula, the second stage for every third token."""
    first = [[(7 * token) % client.sizes[0]] * client.groups for token in range(client.tokens)]
    mask = [token % 3 == 1 for token in range(client.tokens)]
    second = [[token % client.sizes[1]] * client.groups for token in range(sum(mask))]
    return [(None, first), (mask, second)]


def test_its_payloads_are_ours(client: PageClient, bundle_directory: Path) -> None:
    stages = stages_of(client)
    header, body = client.payload(stages)
    encoded = Encoded(
        client.tokens,
        tuple(
            StageIndices(np.array(indices, np.int32), None if mask is None else np.array(mask))
            for mask, indices in stages
        ),
    )
    manifest = read_manifest(bundle_directory)
    ours = pack(encoded, manifest.quantizer, None, client.digest, "fixed")
    theirs = Payload(
        client.digest,
        header.num_tokens,
        header.num_stages,
        header.masked_stages,
        "fixed",
        body,
        header.crc32,
    )
    assert theirs == ours
    assert client.from_file(to_frame(ours)) == (header, body)


def test_its_questions_are_answered(client: PageClient) -> None:
    text, digest = client.ask(GOOD_QUESTION, *client.payload(stages_of(client)))
    assert text
    assert len(digest) == 16
    # Twice under one id: both are answered.
    assert client.ask_again(GOOD_QUESTION, digest, "same") == (text, digest)
    assert client.ask_again(GOOD_QUESTION, digest, "same") == (text, digest)


@pytest.mark.parametrize("coding", ["fixed", "range"])
def test_it_sends_the_files_that_we_write(
    client: PageClient, cloud: CloudProcess, bundle_directory: Path, coding: Any
) -> None:
    spec = read_spec(bundle_directory, read_manifest(bundle_directory))
    with EdgeClient(cloud.target, bundle_directory) as edge:
        found = edge.compress(picture()).payload
        encoded = unpack(found, spec.quantizer, spec.features.num_tokens, False, spec.tables)
        written = spec.packed(encoded, coding)
        answer = edge.ask(written, GOOD_QUESTION, max_tokens=5)
    assert client.ask(GOOD_QUESTION, *client.from_file(to_frame(written)))[0] == answer
