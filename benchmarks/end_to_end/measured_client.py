"""An edge client that measures its questions: with a payload of the split model, or with a JPEG."""

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
from benchmarks.end_to_end.camera_images import jpeg
from benchmarks.end_to_end.edge import TIMEOUT_SECONDS, EdgeTask, Sample
from benchmarks.kinds.baseline_service import raw_payload
from edge_client import EdgeClient, EdgeConfig
from edge_client.backends.base import Backend
from edge_client.connection.credentials import Credentials, Options
from edge_client.connection.transport import GrpcTransport
from edge_client.encoder import EdgeEncoder
from edge_client.input.remembered_images import ImageOrPayload

# One attempt and no remembered images: every question is measured as a whole.
LONG_TIMEOUTS = EdgeConfig(
    connect_seconds=TIMEOUT_SECONDS,
    first_token_seconds=TIMEOUT_SECONDS,
    total_seconds=TIMEOUT_SECONDS,
    silence_seconds=TIMEOUT_SECONDS,
    attempts=1,
    remembered_images=0,
)


@dataclass(frozen=True)
class WithoutKeepalive(Credentials):
    """Plain connections without keepalive.

    A keepalive ping queues behind the upload. On a thin link the upload of a JPEG takes longer than
    the keepalive timeout, and gRPC would close a connection that works. Payloads are too small for
    that.
    """

    def channel(self, target: str, options: Options) -> grpc.Channel:
        """See `Credentials.channel`."""
        remaining = tuple(option for option in options if "keepalive" not in option[0])
        return super().channel(target, remaining)


class TimedBackend:
    """A backend that measures the quantizer's time for the last image."""

    def __init__(self, backend: Backend) -> None:
        self.name = backend.name
        self.spec = backend.spec
        self.quantize_ms = 0.0
        self._backend = backend

    def run_prefix(self, pixels: NDArray[np.float32], modality: str = "rgb") -> TimedPrefixOutput:
        """See `Backend.run_prefix`."""
        self.quantize_ms = 0.0
        return TimedPrefixOutput(self, self._backend.run_prefix(pixels, modality))


class TimedPrefixOutput(NamedTuple):
    """Adds the time of each encoding to `quantize_ms` of its backend."""

    backend: TimedBackend
    output: PrefixOutput

    def encode(self, point: OperatingPoint | None) -> Encoded:
        """See `PrefixOutput.encode`."""
        started = time.perf_counter()
        encoded = self.output.encode(point)
        self.backend.quantize_ms += 1e3 * (time.perf_counter() - started)
        return encoded


@dataclass(frozen=True)
class SubstitutePayload(CodecSpec):
    """A codec of real dimensions that compresses an image and then sends another payload.

    The substitute has the same size, and the reference model's cloud can decode it.
    """

    payload: Payload | None = None

    def compress(
        self,
        image: PrefixOutput,
        point: OperatingPoint | str | None = None,
        coding: Coding | None = None,
    ) -> Payload:
        """Compress the image, discard the result and return the substitute."""
        assert self.payload is not None
        super().compress(image, None, coding)
        return self.payload


_SPEC = fields(CodecSpec)


class MeasuredClient:
    """Questions over one warm connection to one cloud, with the time of every stage."""

    def __init__(self, task: EdgeTask, target: str) -> None:
        self._task = task
        transport = GrpcTransport(target, WithoutKeepalive())
        self._client = EdgeClient(target, task.bundle, LONG_TIMEOUTS, transport=transport)
        encoder = self._client.encoder
        self._backend = TimedBackend(encoder.backend)
        self._reference_encoder: EdgeEncoder | None = None
        if task.real_bundle is not None:
            self._reference_encoder = EdgeEncoder(task.bundle)
            self._backend = TimedBackend(EdgeEncoder(task.real_bundle).backend)
        encoder.backend = self._backend

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def split(self, image: Image.Image) -> Sample:
        """Ask a question with the payload of the split model."""
        if self._reference_encoder is not None:
            # Before the clock starts: this is not work of the measured edge.
            encoded = self._reference_encoder.encode(image, quality="fixed", coding="fixed")
            spec = {field.name: getattr(self._backend.spec, field.name) for field in _SPEC}
            self._backend.spec = SubstitutePayload(**spec, payload=encoded.payload)
        started = time.perf_counter()
        loaded = load_image(image)
        view_started = time.perf_counter()
        view = self._client.encoder.view(loaded)
        preprocess_ms = 1e3 * (time.perf_counter() - view_started)
        return self._ask(view, started, {"preprocess": preprocess_ms})

    def cloud_only(self, image: Image.Image) -> Sample:
        """Ask a question with the image as a JPEG."""
        started = time.perf_counter()
        body = jpeg(image)
        jpeg_ms = 1e3 * (time.perf_counter() - started)
        payload = raw_payload(self._client.encoder.digest, body)
        return self._ask(payload, started, {"jpeg": jpeg_ms})

    def _ask(self, source: ImageOrPayload, started: float, edge_ms: dict[str, float]) -> Sample:
        """Ask the task's question.

        Args:
            source: image or payload.
            started: `time.perf_counter()` when the work on the question began.
            edge_ms: stages that ran since then, in milliseconds.
        """
        options: dict[str, Any] = {"max_tokens": self._task.max_tokens}
        options["quality"] = self._task.quality
        with self._client.stream(source, self._task.question, **options) as stream:
            before_ms = 1e3 * (time.perf_counter() - started)
            for _ in stream:
                pass
        if stream.answer is None:
            raise EngineError("expected an answer, got a stream that ended without one")
        details = stream.answer.details
        # Everything before the request that is no other stage.
        load_ms = before_ms - sum(edge_ms.values())
        client_ms = {stage: ns / 1e6 for stage, ns in details.edge.stages_ns.items()}
        # Preprocessing has two parts: the view, made above, and the pixels, made by the client.
        if "preprocess" in client_ms:
            client_ms["preprocess"] += edge_ms["preprocess"]
        # The client times quantization and packing together; `TimedBackend` times the former.
        if compress_ms := client_ms.pop("compress", 0.0):
            client_ms["quantize"] = self._backend.quantize_ms
            client_ms["pack"] = compress_ms - self._backend.quantize_ms
        return {
            "edge_ms": {"load": load_ms, **edge_ms, **client_ms},
            "cloud_ms": {stage: ns / 1e6 for stage, ns in details.cloud.stages_ns.items()},
            "first_token_ms": before_ms + details.first_token_ms,
            "total_ms": before_ms + details.total_ms,
            "body_bytes": details.payload_bytes,
            "sent_bytes": details.message_bytes,
            "tokens": details.usage.completion_tokens,
        }
