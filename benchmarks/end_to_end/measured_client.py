"""Questions through a link: with a payload of the split model, or with a JPEG file in its place."""

from __future__ import annotations

import time
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import grpc
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from aligned_vq.codec.spec import CodecSpec, PrefixOutput
from aligned_vq.errors import EngineError
from aligned_vq.images.load import load_image
from aligned_vq.types import Coding, Encoded, OperatingPoint, Payload
from benchmarks.end_to_end.edge import SECONDS, Sample, Task
from benchmarks.end_to_end.pictures import jpeg
from benchmarks.kinds.pixel_cloud import raw_payload
from edge_client import EdgeClient, EdgeConfig
from edge_client.backends.base import Backend
from edge_client.connection.credentials import Credentials, Options
from edge_client.connection.transport import GrpcTransport
from edge_client.encoder import EdgeEncoder
from edge_client.input.remembered_images import ImageOrPayload

PATIENT = EdgeConfig(
    connect_seconds=SECONDS,
    first_token_seconds=SECONDS,
    total_seconds=SECONDS,
    silence_seconds=SECONDS,
    attempts=1,
    remembered_images=0,
)


@dataclass(frozen=True)
class Unhurried(Credentials):
    """Plain connections without keepalive: its ping waits behind an upload, and on a thin link
    longer than it may. No payload is so large, but a JPEG is."""

    def channel(self, target: str, options: Options) -> grpc.Channel:
        """See `Credentials.channel`."""
        kept = tuple(option for option in options if "keepalive" not in option[0])
        return super().channel(target, kept)


class TimedBackend:
    """A backend that measures how long its quantizer takes for the last image."""

    def __init__(self, backend: Backend) -> None:
        self.name = backend.name
        self.spec = backend.spec
        self.quantize_ms = 0.0
        self._backend = backend

    def run_prefix(self, pixels: NDArray[np.float32]) -> TimedPrefixOutput:
        """See `Backend.run_prefix`."""
        self.quantize_ms = 0.0
        return TimedPrefixOutput(self, self._backend.run_prefix(pixels))


class TimedPrefixOutput(NamedTuple):
    """Adds the time of each encoding to its backend's."""

    backend: TimedBackend
    output: PrefixOutput

    def encode(self, point: OperatingPoint | None) -> Encoded:
        """See `PrefixOutput.encode`."""
        began = time.perf_counter()
        encoded = self.output.encode(point)
        self.backend.quantize_ms += 1e3 * (time.perf_counter() - began)
        return encoded


@dataclass(frozen=True)
class StandIn(CodecSpec):
    """A codec of real dimensions whose payload another of the same size stands in for."""

    payload: Payload | None = None

    def compress(
        self,
        image: PrefixOutput,
        point: OperatingPoint | str | None = None,
        coding: Coding | None = None,
    ) -> Payload:
        """All the work, for another payload."""
        assert self.payload is not None
        super().compress(image, None, coding)
        return self.payload


_SPEC = fields(CodecSpec)


class MeasuredClient:
    """One warm connection to one cloud."""

    def __init__(self, task: Task, target: str) -> None:
        self._task = task
        transport = GrpcTransport(target, Unhurried())
        self._client = EdgeClient(target, task.bundle, PATIENT, transport=transport)
        encoder = self._client.encoder
        self._backend = TimedBackend(encoder.backend)
        self._small: EdgeEncoder | None = None
        if task.real_bundle is not None:
            self._small = EdgeEncoder(task.bundle)
            self._backend = TimedBackend(EdgeEncoder(task.real_bundle).backend)
        encoder.backend = self._backend

    def close(self) -> None:
        """Hang up."""
        self._client.close()

    def split(self, image: Image.Image) -> Sample:
        """A question with the split model's payload."""
        if self._small is not None:
            payload = self._small.encode(image, quality="fixed", coding="fixed").payload
            own = {field.name: getattr(self._backend.spec, field.name) for field in _SPEC}
            self._backend.spec = StandIn(**own, payload=payload)
        began = time.perf_counter()
        loaded = load_image(image)
        took = time.perf_counter()
        view = self._client.encoder.view(loaded)
        return self._asked(view, began, {"preprocess": 1e3 * (time.perf_counter() - took)})

    def cloud_only(self, image: Image.Image) -> Sample:
        """A question with the picture as a JPEG."""
        began = time.perf_counter()
        body = jpeg(image)
        jpeg_ms = 1e3 * (time.perf_counter() - began)
        payload = raw_payload(self._client.encoder.digest, body)
        return self._asked(payload, began, {"jpeg": jpeg_ms})

    def _asked(self, source: ImageOrPayload, began: float, edge_ms: dict[str, float]) -> Sample:
        options: dict[str, Any] = {"max_tokens": self._task.max_tokens}
        options["quality"] = self._task.quality
        with self._client.stream(source, self._task.question, **options) as stream:
            before_ms = 1e3 * (time.perf_counter() - began)
            for _ in stream:
                pass
        if stream.answer is None:
            raise EngineError("expected an answer, got a stream that ended without one")
        details = stream.answer.details
        load_ms = before_ms - sum(edge_ms.values())
        own_ms = {stage: ns / 1e6 for stage, ns in details.edge.stages_ns.items()}
        if "preprocess" in own_ms:  # the view was made before, the rest of it with the prefix
            own_ms["preprocess"] += edge_ms["preprocess"]
        if compress_ms := own_ms.pop("compress", 0.0):
            own_ms["quantize"] = self._backend.quantize_ms
            own_ms["pack"] = compress_ms - self._backend.quantize_ms
        return {
            "edge_ms": {"load": load_ms, **edge_ms, **own_ms},
            "cloud_ms": {stage: ns / 1e6 for stage, ns in details.cloud.stages_ns.items()},
            "first_token_ms": before_ms + details.first_token_ms,
            "total_ms": before_ms + details.total_ms,
            "body_bytes": details.payload_bytes,
            "sent_bytes": details.message_bytes,
            "tokens": details.usage.completion_tokens,
        }
