"""EdgeClient: ask a question about an image; only indices leave this machine."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypedDict, Unpack

import torch
from PIL.Image import Image

from aligned_vq.answers import Sampling, Timings
from aligned_vq.errors import InvalidInput, ManifestMismatch
from aligned_vq.types import Payload
from edge_client.answer import Answer
from edge_client.config import EdgeConfig
from edge_client.credentials import read_credentials
from edge_client.encoder import EdgeEncoder, EncodedImage
from edge_client.images import ImageSource, load_image
from edge_client.stream import AnswerStream
from edge_client.transport import GrpcTransport, Transport
from protos.messages import ServiceInfo
from protos.traces import open_traces

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class SamplingOptions(TypedDict, total=False):
    """Keywords that override the fields of `Sampling`, and of how the image is sent."""

    quality: str | None
    """Operating point of the bundle, such as "low", "medium" or "high"; None: its default."""

    max_tokens: int
    temperature: float
    top_p: float
    seed: int | None
    stop: str | Sequence[str]
    """The answer ends before the first of these texts."""


@dataclass
class _Remembered:
    """A payload made earlier, and the service's name for it once it has one."""

    encoded: EncodedImage
    held_as: bytes = b""


class EdgeClient:
    """Asks one cloud service about images, over one warm connection.

        with EdgeClient("localhost:50051", "bundle/") as client:
            answer = client.ask("photo.jpg", "What colour is the star?")

    Args:
        target: `host:port` of the cloud service.
        bundle: directory written by `aligned-vq export`, the same as the service's.
        config: deadlines, retries, precision, certificates, token and traces.
        transport: another way to reach the service, for tests.

    Raises:
        ConfigError: the bundle, a certificate or the token cannot be used.
    """

    def __init__(
        self,
        target: str,
        bundle: str | Path,
        config: EdgeConfig | None = None,
        *,
        transport: Transport | None = None,
    ) -> None:
        self.config = config or EdgeConfig()
        self.encoder = EdgeEncoder(bundle, _DTYPES[self.config.dtype])
        self._transport = transport or GrpcTransport(target, read_credentials(self.config))
        self._traces = open_traces(self.config.traces, "edge-client")
        self._remembered: OrderedDict[bytes, _Remembered] = OrderedDict()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._transport.close()
        self._traces.close()

    def ask(self, image: ImageSource, question: str, **sampling: Unpack[SamplingOptions]) -> Answer:
        """The whole answer. Arguments and errors as for `stream`."""
        with self.stream(image, question, **sampling) as stream:
            for _ in stream:
                pass
        assert stream.answer is not None  # a stream ends with an answer or an error
        return stream.answer

    def stream(
        self, image: ImageSource, question: str, **sampling: Unpack[SamplingOptions]
    ) -> AnswerStream:
        """The answer as it arrives: iterate over the pieces of text.

        Args:
            image: a path, encoded bytes, a PIL image or an array (see `load_image`).
            question: plain text.
            sampling: fields of `Sampling` to change, and `quality`: an operating point of the
                bundle by name, in place of its default.

        Raises:
            InvalidInput: the image, the question or the quality cannot be used.
            CloudUnreachable: no service answered; DeadlineExceeded: not in time.
            ManifestMismatch: the service has another bundle.
            Unauthenticated: the service wants a certificate or a token that it knows.
            Overloaded: the service is full, also after the retries; QuotaExceeded: this client has
                asked more than its share, and the wait is longer than the question may take.
            EngineError: the service failed.
        """
        if not question.strip():
            raise InvalidInput("expected a question, got an empty one; ask something")
        loaded = load_image(image)
        quality = sampling.pop("quality", None)
        self.encoder.check_quality(quality)
        key = _pixel_digest(loaded, quality)
        remembered = self._remembered.get(key)

        def encode() -> tuple[Payload, Timings]:
            found = self._remembered.get(key)
            encoded = found.encoded if found else self.encoder.encode(loaded, quality=quality)
            self._remember(key, encoded)
            return encoded

        return AnswerStream(
            self._transport,
            self.config,
            self.encoder.digest,
            question,
            _sampling(sampling),
            encode,
            remembered.held_as if remembered else b"",
            on_end=lambda digest: self._held(key, digest),
            traces=self._traces,
        )

    def compress(self, image: ImageSource, *, quality: str | None = None) -> EncodedImage:
        """The payload of an image, without asking anything; `quality` as for `stream`."""
        self.encoder.check_quality(quality)
        return self.encoder.encode(load_image(image), quality=quality)

    def check(self) -> ServiceInfo:
        """Reach the service and compare bundles.

        Raises:
            CloudUnreachable: no service answered.
            Unauthenticated: it wants a certificate or a token that it knows.
            ManifestMismatch: it has another bundle.
        """
        self._transport.connect(self.config.connect_seconds)
        info = self._transport.service_info(self.config.first_token_seconds, self.encoder.digest)
        if info.manifest_digest != self.encoder.digest:
            raise ManifestMismatch(
                f"expected a service with manifest {self.encoder.digest.hex()}, got one with "
                f"{info.manifest_digest.hex()}; install the same bundle on both sides"
            )
        return info

    def _remember(self, key: bytes, encoded: EncodedImage) -> None:
        entry = self._remembered.setdefault(key, _Remembered(encoded))
        self._remembered.move_to_end(key)
        entry.held_as = b""
        while len(self._remembered) > self.config.remembered_images:
            self._remembered.popitem(last=False)

    def _held(self, key: bytes, digest: bytes) -> None:
        if key in self._remembered:
            self._remembered[key].held_as = digest


def _sampling(options: SamplingOptions) -> Sampling:
    """What is left of the options, as the type that is sent; checked there."""
    fields: dict[str, Any] = dict(options)
    stop = fields.get("stop", ())
    fields["stop"] = (stop,) if isinstance(stop, str) else tuple(stop)
    return Sampling(**fields)


def _pixel_digest(image: Image, quality: str | None) -> bytes:
    """Names the picture itself, however it was given, at one quality."""
    return hashlib.sha256(f"{image.size} {quality}".encode() + image.tobytes()).digest()
