"""EdgeClient: ask a question about an image; only indices leave this machine."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self, TypedDict, Unpack

from aligned_vq.answers import Sampling
from aligned_vq.errors import AlignedVQError, InvalidInput, ManifestMismatch
from aligned_vq.images.load import ImageSource
from aligned_vq.images.preprocess import View
from aligned_vq.telemetry.traces import open_traces
from edge_client.answer import Answer
from edge_client.config import EdgeConfig
from edge_client.connection.credentials import read_credentials
from edge_client.connection.route import Route
from edge_client.connection.stream import AnswerStream
from edge_client.connection.targets import Targets, is_refusal, split_targets
from edge_client.connection.transport import GrpcTransport, Transport
from edge_client.encoder import EdgeEncoder, EncodedImage
from edge_client.input.image_opener import ImageOpener
from edge_client.input.remembered_images import ImageOrPayload, RememberedImages
from protos.messages import Question, ServiceInfo, Turn

History = Iterable[tuple[str, str]]
"""Questions and their answers."""


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


class EdgeClient:
    """Asks a cloud service about images, over one warm connection to each of its targets.

        with EdgeClient("localhost:50051", "bundle/") as client:
            answer = client.ask("photo.jpg", "What colour is the star?")

    Args:
        target: `host:port` of the cloud service; several, in a list or with commas between them,
            share the questions, and a question that one fails goes on to another.
        bundle: directory written by `aligned-vq export`, the same as the service's.
        config: deadlines, retries, precision, image formats, certificates, token and traces.
        transport: another way to reach the service, for tests.

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
        self.config = config or EdgeConfig()
        settings = self.config
        self.encoder = EdgeEncoder(bundle, settings.backend, settings.dtype, settings.threads)
        transports = [transport] if transport else _transports(target, settings)
        self._targets = Targets(transports, settings)
        self._traces = open_traces(settings.traces, "edge-client")
        self._opener = ImageOpener(self.encoder, settings)
        self._images = RememberedImages(self.encoder, settings.remembered_images, self._opener.view)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
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
            image: a path, encoded bytes, a PIL image or an array (see `load_image`); or a payload
                that `compress` made, or the path of the `.avq` file it was written to; None for a
                question about no image.
            question: plain text.
            history: earlier questions and their answers, the oldest first; the image is shown with
                the first question of the conversation.
            sampling: fields of `Sampling` to change, and `quality`: an operating point of the
                bundle by name, in place of its default.

        Raises:
            InvalidInput: the image, a text or the quality cannot be used.
            CorruptPayload: the `.avq` file holds no payload.
            CloudUnreachable: no service answered; DeadlineExceeded: not in time.
            ManifestMismatch: the service, or the payload, has another bundle.
            Unauthenticated: the service wants a certificate or a token that it knows.
            Overloaded: the service is full, also after the retries; QuotaExceeded: this client has
                asked more than its share, and the wait is longer than the question may take.
            EngineError: the service failed.
        """
        if not question.strip():
            raise InvalidInput("expected a question, got an empty one; ask something")
        turns = tuple(Turn(asked, answered) for asked, answered in history)
        quality = sampling.pop("quality", None)
        self.encoder.check_quality(quality)
        pending = None if image is None else self._images.pending(image, quality)
        checked = Question(
            uuid.uuid4().hex[:16],
            self.encoder.digest,
            question,
            _sampling(sampling),
            pending.held_as if pending else b"",
            turns,
            text_only=pending is None,
        )
        route = Route(self._targets, pending.held_by if pending else "")
        return AnswerStream(route, self.config, checked, pending, self._traces)

    def view(self, image: ImageSource) -> View:
        """What the model sees of an image: small, and all that the other verbs need of it.

        Raises:
            InvalidInput: the image cannot be used.
            Overloaded: as many as may be are being decoded.
        """
        return self._opener.view(image)

    def compress(self, image: ImageOrPayload, *, quality: str | None = None) -> EncodedImage:
        """The payload of an image, without asking anything; arguments as for `stream`."""
        self.encoder.check_quality(quality)
        return self._images.pending(image, quality).encoded()

    def targets(self) -> dict[str, bool]:
        """By address: True while questions go to that service, False while it is left out after
        failures. Nothing is sent to find out."""
        able = {target.name for target in self._targets.able()}
        return {target.name: target.name in able for target in self._targets.all}

    def check(self) -> ServiceInfo:
        """Reach the service, or the first of several that would serve us, and compare bundles.

        Raises:
            CloudUnreachable: no service answered.
            Unauthenticated: it wants a certificate or a token that it knows.
            ManifestMismatch: it has another bundle.
        """
        route = Route(self._targets)
        while True:
            route.connect(self.config.connect_seconds)
            try:
                return self._compared(route)
            except AlignedVQError as error:
                elsewhere = route.failed(error)
                if not (elsewhere and is_refusal(error)):
                    raise route.explain(error) from error

    def _compared(self, route: Route) -> ServiceInfo:
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
    """The remaining options as `Sampling`, which checks them."""
    fields: dict[str, Any] = dict(options)
    stop = fields.get("stop", ())
    fields["stop"] = (stop,) if isinstance(stop, str) else tuple(stop)
    return Sampling(**fields)
