"""The gRPC service: one question per stream, from the first message to the last token."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
from torch import Tensor

from aligned_vq.answers import Sampling, Timings, TokenChunk, Usage
from aligned_vq.errors import AlignedVQError, CloudUnreachable, DeadlineExceeded
from aligned_vq.stopwatch import Stopwatch
from aligned_vq.telemetry.log_limit import LIMIT
from aligned_vq.telemetry.spans import CANCELLED, NO_TRACES, Traces
from aligned_vq.types import Payload, digest_of
from cloud_server.access.connections import Connections
from cloud_server.access.gate import AdmittedQuestion, Gate
from cloud_server.access.identity import Identities
from cloud_server.config import CloudConfig
from cloud_server.decode.batcher import DecodeBatcher, DecodeMany
from cloud_server.decode.incoming import (
    Incoming,
    ServedBundles,
    bundle_named,
    manifest_digest_of,
)
from cloud_server.decode.lru_byte_cache import LruByteCache
from cloud_server.engine.base import EngineRequest, LanguageEngine
from cloud_server.operations.metrics import ImageSource, Metrics
from cloud_server.operations.question_record import ANSWERED, QuestionRecord
from cloud_server.prompt import PromptBuilder
from protos import convert
from protos.alignedvq.v1 import inference_pb2 as pb
from protos.status import status_of

_log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[pb.AskRequest, pb.AskResponse]


@dataclass(frozen=True)
class ServiceParts:
    """What the service puts together; each part is replaceable in tests."""

    bundles: ServedBundles
    decode_many: DecodeMany
    prompts: PromptBuilder
    engine: LanguageEngine
    metrics: Metrics
    traces: Traces = NO_TRACES
    identities: Identities | None = None
    """Who may ask; None: as the settings say."""
    connections: Connections | None = None


@dataclass(frozen=True)
class _Image:
    """What a question is about, and what making it took."""

    source: ImageSource
    embeds: Tensor | None = field(default=None, repr=False)
    key: bytes = b""
    """Its name among those of all tenants."""
    digest: bytes = b""
    """Its name for follow-up questions; empty: it is not held."""
    stages_ns: dict[str, int] = field(default_factory=dict)


class SplitInferenceService:
    """Answers questions; holds no state a second replica would miss but a cache of images."""

    def __init__(self, parts: ServiceParts, config: CloudConfig) -> None:
        self._parts = parts
        self._config = config
        self._images: LruByteCache[Tensor] = LruByteCache(
            config.image_cache_mib * 2**20, lambda embeds: embeds.nbytes
        )
        self._metrics = parts.metrics
        self._decoder = DecodeBatcher(
            parts.decode_many,
            config.decode_batch,
            config.max_in_flight,
            self._metrics.decode_batch.observe,
        )
        self.gate = self._gate = Gate(config, parts.identities, parts.connections)
        self._metrics.gauge("in_flight", "Questions being answered.", lambda: self._gate.in_flight)
        self._metrics.gauge(
            "arriving",
            "Calls whose message has not come yet.",
            lambda: len(self._gate.arrivals),
        )
        self._metrics.gauge("connections", "Of the gRPC port.", lambda: self._gate.connections.open)
        self._metrics.gauge(
            "decode_queue", "Payloads that wait to be decoded.", lambda: len(self._decoder)
        )

    async def GetManifest(  # noqa: N802 - the wire's name
        self,
        request: bytes,
        context: grpc.aio.ServicerContext[bytes, pb.GetManifestResponse],
    ) -> pb.GetManifestResponse | None:
        """What is served here, and its limits; None if the call was refused. The request comes as
        bytes: strangers are refused before it is looked at."""
        try:
            self._gate.identity(context)
            bundles = self._parts.bundles
            digest = manifest_digest_of(request)
            found = bundle_named(bundles, digest or next(iter(bundles)))
        except AlignedVQError as error:
            _refuse(context, error)
            return None
        return convert.service_info_to_proto(found.info)

    async def Ask(  # noqa: N802 - the wire's name
        self, _: object, context: Context
    ) -> None:
        """One question and its image in, text out; every failure is one clear status."""
        if self._gate.connections.ending(peer := context.peer()):
            raise asyncio.CancelledError
        record = QuestionRecord(
            self._parts.traces.join("answer", context.invocation_metadata() or ())
        )
        outcome = CANCELLED
        visit = self._gate.arrive(peer)
        try:
            visit.enter(context)
            if not self._parts.engine.healthy:
                raise CloudUnreachable(
                    "the language engine here has stopped; ask again, another replica serves"
                )
            async with visit.time(self._config.max_answer_seconds):
                responses = self._answer(visit, context, record)
                async with aclosing(responses):
                    async for response in responses:
                        # Not `yield`: gRPC would be the one that waits for a slow reader, and time
                        # would end the call there without a word.
                        await context.write(response)
            outcome = ANSWERED
        except TimeoutError:
            why = visit.ended_by
            outcome = "cut off" if self._gate.draining else "timeout"
            outcome = outcome if why is None else type(why).__name__
            _refuse(context, why or self._too_long())
        except AlignedVQError as error:
            outcome = type(error).__name__
            visit.refuse(error)
            _refuse(context, error)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - a bug must end one call, not the service
            outcome = "bug"
            _log.exception("a question failed", extra=record.extra)
            _refuse(context, error)
        finally:
            visit.leave()
            spent = record.end(outcome, visit.identity)
            self._metrics.questions.labels(outcome).inc()
            self._metrics.seconds.observe(spent)
            words = (outcome, spent, visit.identity or "-")
            # One line for each answer; of the others, which cost their sender little, a few.
            kind = None if outcome == ANSWERED else f"question {outcome}"
            told = {**record.extra, LIMIT: kind}
            _log.info("question %s after %.3f s, from %s", *words, extra=told)

    def _too_long(self) -> AlignedVQError:
        if self._gate.draining:
            return CloudUnreachable(
                "the service shut down before the answer was complete; ask again, another replica "
                "serves"
            )
        return DeadlineExceeded(
            f"an answer may take {self._config.max_answer_seconds:g} s here and this one took "
            "longer; ask for fewer tokens or try again when the service is less busy"
        )

    async def drain(self, seconds: float) -> None:
        """Refuse new questions and wait, at most `seconds`, for those in flight."""
        await self._gate.drain(seconds)

    async def close(self) -> None:
        """Let go of threads."""
        await self._decoder.close()

    async def _answer(
        self, visit: AdmittedQuestion, context: Context, record: QuestionRecord
    ) -> AsyncGenerator[pb.AskResponse]:
        watch = Stopwatch()
        incoming = Incoming(
            context,
            self._parts.bundles,
            self._config.question_seconds,
            self._config.payload_seconds,
        )
        question = await incoming.question()
        visit.begun()
        record.note(request_id=question.request_id)
        prompt_ids = self._parts.prompts.build(
            question.text, question.turns, text_only=question.text_only
        )
        sampling = self._sampling(question.sampling, len(prompt_ids))
        identity = visit.identity or ""
        image: _Image | None = None
        if question.text_only:
            image = _Image("none", key=_image_key(identity, b""))
        elif question.image_digest:
            image = self._held(identity, question.image_digest)
        if image is not None:
            visit.admit(context)
        else:
            if question.image_digest:
                yield convert.payload_needed_response()
            payload = await incoming.payload(question)
            watch.lap("receive")
            record.span.stages(watch.timings().stages_ns)
            record.note(payload_bytes=len(payload.body))
            self._metrics.payload.observe(len(payload.body))
            visit.admit(context)
            image = await self._decoded(identity, payload, watch.timings().stages_ns, record)
        request_id = f"{question.request_id or 'anonymous'}-{uuid.uuid4().hex}"
        request = EngineRequest(request_id, prompt_ids, image.embeds, sampling, image.key)
        begun = False
        async for chunk in self._chunks(request):
            if not begun:
                begun = True
                self._metrics.first_token.observe(record.seconds)
            whole = _completed(chunk, image)
            if whole.finish_reason is not None:
                self._metrics.answered(whole, image.source)
                record.answered(whole, chunk.timings.stages_ns if chunk.timings else {})
            for response in convert.chunk_to_responses(whole, image.digest):
                yield response

    def _held(self, identity: str, digest: bytes) -> _Image | None:
        """An image that this tenant sent earlier, if it is still here."""
        key = _image_key(identity, digest)
        embeds = self._images.get(key)
        return None if embeds is None else _Image("held", embeds, key, digest)

    async def _decoded(
        self, identity: str, payload: Payload, stages: dict[str, int], record: QuestionRecord
    ) -> _Image:
        """The image of a payload, held from now on if there is room."""
        digest = payload.digest()
        key = _image_key(identity, digest)
        embeds = self._images.get(key)
        if embeds is None:
            decoded = await self._decoder.decode(payload)
            record.span.stages(decoded.timings.stages_ns)
            embeds, stages = decoded.embeds, stages | decoded.timings.stages_ns
            self._images.put(key, embeds)
        return _Image("decoded", embeds, key, digest if key in self._images else b"", stages)

    async def _chunks(self, request: EngineRequest) -> AsyncIterator[TokenChunk]:
        """The engine's chunks; its work stops when the call does."""
        try:
            async for chunk in self._parts.engine.generate(request):
                yield chunk
        finally:
            await self._parts.engine.abort(request.request_id)

    def _sampling(self, asked: Sampling, prompt_tokens: int) -> Sampling:
        """The limits of the service and of the model's context applied."""
        wanted = asked.max_tokens or self._config.default_answer_tokens
        room = self._parts.prompts.limits.context_tokens - prompt_tokens
        return replace(asked, max_tokens=min(wanted, self._config.max_answer_tokens, room))


def _completed(chunk: TokenChunk, image: _Image) -> TokenChunk:
    """The engine's last chunk with the whole call's usage and timings."""
    if chunk.finish_reason is None:
        return chunk
    usage = chunk.usage or Usage(0, 0)
    engine = chunk.timings.stages_ns if chunk.timings else {}
    return replace(
        chunk,
        usage=replace(usage, image_cached=image.source == "held"),
        timings=Timings({**image.stages_ns, **engine}),
    )


def _image_key(identity: str, digest: bytes) -> bytes:
    """Names an image among those of all tenants: who knows another's digest gets nothing by it."""
    return digest_of(identity.encode(), digest)


def _refuse(context: grpc.aio.ServicerContext[Any, Any], error: BaseException) -> None:
    """End the call with an error once its method returns. Not by `abort`: what that raises holds
    the call, and a place among its connection's streams, until garbage is collected."""
    code, details, metadata = status_of(error)
    context.set_code(code)
    context.set_details(details)
    context.set_trailing_metadata(metadata)
