"""EdgeClient: asks questions about images; only codebook indices leave this machine."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self, TypedDict, Unpack

from aligned_vq.answers import Sampling
from aligned_vq.errors import AlignedVQError, InvalidInput, ManifestMismatch
from aligned_vq.images.load import ImageSource
from aligned_vq.images.modality import CameraModality
from aligned_vq.images.preprocess import View
from aligned_vq.telemetry.traces import open_traces
from edge_client.answer import Answer
from edge_client.config import EdgeConfig
from edge_client.connection.credentials import read_credentials
from edge_client.connection.route import Route
from edge_client.connection.stream import AnswerStream
from edge_client.connection.targets import Targets, is_rejection, split_targets
from edge_client.connection.transport import GrpcTransport, Transport
from edge_client.encoder import EdgeEncoder, EncodedImage
from edge_client.input.image_opener import ImageOpener
from edge_client.input.remembered_images import ImageOrPayload, RememberedImages
from protos.messages import Question, ServiceInfo, Turn

History = Iterable[tuple[str, str]]
"""Pairs of a question and its answer."""


class SamplingOptions(TypedDict, total=False):
    """Keyword arguments that override fields of `Sampling`, and how the image is encoded."""

    quality: str | None
    """Operating point of the bundle, such as "low", "medium" or "high"; None: its default."""
    modality: CameraModality
    """What the camera measures: "rgb" (the default), or another one of the bundle. Of no effect on
    payloads and views, which are encoded or prepared already."""

    max_tokens: int
    temperature: float
    top_p: float
    seed: int | None
    stop: str | Sequence[str]
    """Stop texts: the answer ends before the first of them."""


class EdgeClient:
    """Asks a cloud service about images, over one persistent connection per target.

        with EdgeClient("localhost:50051", "bundle/") as client:
            answer = client.ask("photo.jpg", "What colour is the star?")
            answer = client.ask("depth.png", "How many chairs are there?", modality="depth")

    Args:
        target: `host:port` of the cloud service; several, as a list or separated by commas, share
            the load, and a question that fails at one is retried at another.
        bundle: directory written by `aligned-vq export`, the same as the service's.
        config: deadlines, retries, precision, image formats, credentials and traces.
        transport: replaces the gRPC connection, for tests.

    Raises:
        ConfigError: the bundle, a certificate or the token cannot be used.
    """

    def __init__(
        self,
        target: str | Sequence[str],
        bundle: str | Path,
        config: EdgeConfig | None = None,
        *,
        transport: Transport | None = None,
    ) -> None:
        self.config = config = config or EdgeConfig()
        self.encoder = EdgeEncoder(bundle, config.backend, config.dtype, config.threads)
        transports = [transport] if transport else _transports(target, config)
        self._targets = Targets(transports, config)
        self._traces = open_traces(config.traces, "edge-client")
        self._opener = ImageOpener(
            self.encoder.manifest.processor,
            config.image_formats,
            config.isolate_images,
            config.image_seconds,
        )
        self._images = RememberedImages(self.encoder, config.remembered_images, self.view)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections and end the decoding processes."""
        self._opener.close()
        self._targets.close()
        self._traces.close()

    def ask(
        self,
        image: ImageOrPayload | None,
        question: str,
        history: History = (),
        **sampling: Unpack[SamplingOptions],
    ) -> Answer:
        """The whole answer. Arguments and errors as for `stream`."""
        with self.stream(image, question, history, **sampling) as stream:
            for _ in stream:
                pass
        assert stream.answer is not None  # a stream ends with an answer or an error
        return stream.answer

    def stream(
        self,
        image: ImageOrPayload | None,
        question: str,
        history: History = (),
        **sampling: Unpack[SamplingOptions],
    ) -> AnswerStream:
        """The answer as it arrives: iterate over the pieces of text.

        Args:
            image: a path, encoded bytes, a PIL image or an array (see `load_image` for rgb,
                `load_pixels` for other modalities); a payload made by `compress`, or the path of
                its `.avq` file; None for a text-only question.
            question: plain text.
            history: earlier questions and their answers, the oldest first; the image belongs to
                the first question of the conversation.
            sampling: fields of `Sampling` to change, `quality`: name of the operating point, and
                `modality`: what the camera measures.

        Raises:
            InvalidInput: the image, a text, the quality or the modality cannot be used.
            ConfigError: the modality's files in the bundle are incomplete or damaged.
            CorruptPayload: the `.avq` file holds no payload.
            CloudUnreachable: no service answered.
            DeadlineExceeded: the answer did not arrive in time.
            ManifestMismatch: the service, or the payload, has another bundle.
            Unauthenticated: the service requires a certificate or a token that it knows.
            Overloaded: the service is full, even after the retries.
            QuotaExceeded: this client's quota is used up for longer than the deadline.
            EngineError: the service failed.
        """
        if not question.strip():
            raise InvalidInput("expected a question, got an empty one; ask something")
        turns = tuple(Turn(past_question, answer) for past_question, answer in history)
        quality = sampling.pop("quality", None)
        self.encoder.check_quality(quality)
        modality = sampling.pop("modality", "rgb")
        self.encoder.manifest.edge_half(modality)  # raises, whatever the image is
        pending = None if image is None else self._images.pending(image, quality, modality)
        message = Question(
            uuid.uuid4().hex[:16],  # joins the logs and traces of both sides
            self.encoder.digest,
            question,
            _sampling(sampling),
            pending.service_digest if pending else b"",
            turns,
            text_only=pending is None,
        )
        # The service that caches the image comes first: another one would need the payload.
        route = Route(self._targets, pending.service_target if pending else "")
        return AnswerStream(route, self.config, message, pending, self._traces)

    def view(self, image: ImageSource, modality: str = "rgb") -> View:
        """The model's view of an image: small, and all that the other methods need of it.

        Raises:
            InvalidInput: the image or the modality cannot be used.
            Overloaded: all decoding slots are taken.
        """
        return self._opener.view(image, self.encoder.preparation(modality))

    def compress(
        self, image: ImageOrPayload, *, quality: str | None = None, modality: str = "rgb"
    ) -> EncodedImage:
        """The payload of an image; nothing is sent. Arguments and errors as for `stream`."""
        self.encoder.check_quality(quality)
        self.encoder.manifest.edge_half(modality)
        return self._images.pending(image, quality, modality).encoded()

    def targets(self) -> dict[str, bool]:
        """Availability by address: False while a target's circuit breaker is open. Nothing is
        sent."""
        available = {target.name for target in self._targets.available()}
        return {target.name: target.name in available for target in self._targets.all}

    def check(self) -> ServiceInfo:
        """Reach the service, or the first of several that accepts this client, and compare bundles.

        Raises:
            CloudUnreachable: no service answered.
            Unauthenticated: it requires a certificate or a token that it knows.
            ManifestMismatch: it has another bundle.
        """
        route = Route(self._targets)
        while True:
            route.connect(self.config.connect_seconds)
            try:
                return self._compare_bundles(route)
            except AlignedVQError as error:
                has_untried_target = route.record_failure(error)
                if not (has_untried_target and is_rejection(error)):
                    raise route.explain(error) from error

    def _compare_bundles(self, route: Route) -> ServiceInfo:
        # By digest, as a service may have several bundles; without ours it returns its first.
        info = route.service_info(self.config.first_token_seconds, self.encoder.digest)
        if info.manifest_digest != self.encoder.digest:
            raise ManifestMismatch(
                f"expected a service with manifest {self.encoder.digest.hex()}, got one with "
                f"{info.manifest_digest.hex()}; install the same bundle on both sides"
            )
        return info


def _transports(target: str | Sequence[str], config: EdgeConfig) -> list[GrpcTransport]:
    credentials = read_credentials(config)
    return [GrpcTransport(address, credentials) for address in split_targets(target)]


def _sampling(options: SamplingOptions) -> Sampling:
    """The options, without those of the image, as `Sampling`."""
    fields: dict[str, Any] = dict(options)
    stop = fields.get("stop", ())
    fields["stop"] = (stop,) if isinstance(stop, str) else tuple(stop)
    return Sampling(**fields)
