"""The gRPC service: one question per stream, from the first message to the last token."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

import grpc

from aligned_vq.answers import Sampling, Timings, TokenChunk, Usage
from aligned_vq.errors import AlignedVQError, CloudUnreachable, DeadlineExceeded
from aligned_vq.stopwatch import Stopwatch
from aligned_vq.telemetry.log_limit import LIMIT
from aligned_vq.telemetry.spans import CANCELLED, NO_TRACES, Traces
from cloud_server.access.connections import Connections
from cloud_server.access.gate import Gate, QuestionAdmission
from cloud_server.access.identity import Identities
from cloud_server.config import CloudConfig
from cloud_server.decode.batcher import DecodeBatcher, DecodeMany
from cloud_server.decode.image_store import ImageStore, QuestionImage
from cloud_server.decode.incoming import Incoming, manifest_digest_of
from cloud_server.decode.served_bundles import ServedBundles, find_bundle
from cloud_server.engine.base import EngineRequest, LanguageEngine
from cloud_server.operations.metrics import Metrics
from cloud_server.operations.question_record import ANSWERED, QuestionRecord
from cloud_server.prompt import PromptBuilder
from protos import convert
from protos.alignedvq.v1 import inference_pb2 as pb
from protos.status import status_of

_log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[pb.AskRequest, pb.AskResponse]


@dataclass(frozen=True)
class ServiceParts:
    """The components behind the RPCs; tests replace them one by one."""

    bundles: ServedBundles
    decode_many: DecodeMany
    prompts: PromptBuilder
    engine: LanguageEngine
    metrics: Metrics
    traces: Traces = NO_TRACES
    identities: Identities | None = None
    """Authenticates callers; None builds it from the settings."""
    connections: Connections | None = None


class SplitInferenceService:
    """Implements the RPCs. Its only state is a cache of decoded images, so replicas need not share
    anything.

    Args:
        parts: decoder, engine, prompt builder, metrics and access control.
        config: limits and timeouts.
    """

    def __init__(self, parts: ServiceParts, config: CloudConfig) -> None:
        self._parts = parts
        self._config = config
        self._metrics = parts.metrics
        self._decoder = DecodeBatcher(
            parts.decode_many,
            config.decode_batch,
            config.max_in_flight,
            self._metrics.decode_batch.observe,
        )
        self._images = ImageStore(self._decoder, config.image_cache_mib * 2**20)
        self.gate = self._gate = Gate(config, parts.identities, parts.connections)
        self._metrics.gauge("in_flight", "Questions being answered.", lambda: self._gate.in_flight)
        self._metrics.gauge(
            "arriving",
            "Calls whose first message has not arrived.",
            lambda: len(self._gate.arrivals),
        )
        self._metrics.gauge(
            "connections", "Open connections of the gRPC port.", lambda: self._gate.connections.open
        )
        self._metrics.gauge(
            "decode_queue", "Payloads waiting to be decoded.", lambda: len(self._decoder)
        )

    async def GetManifest(  # noqa: N802 - the wire's name
        self,
        request: bytes,
        context: grpc.aio.ServicerContext[bytes, pb.GetManifestResponse],
    ) -> pb.GetManifestResponse | None:
        """The manifest and limits of a served bundle; None if the call was refused.

        The request arrives unparsed: the caller is authenticated before its bytes are read.
        """
        try:
            self._gate.identity(context)
            bundles = self._parts.bundles
            digest = manifest_digest_of(request)
            bundle = find_bundle(bundles, digest or next(iter(bundles)))
        except AlignedVQError as error:
            _refuse(context, error)
            return None
        return convert.service_info_to_proto(bundle.info)

    async def Ask(  # noqa: N802 - the wire's name
        self, _: object, context: Context
    ) -> None:
        """Read one question and its image, and stream the answer. Every failure sets one gRPC
        status."""
        if self._gate.connections.is_closing(peer := context.peer()):
            # Nobody reads a status on a connection that is being closed, and sending one costs
            # time.
            raise asyncio.CancelledError
        record = QuestionRecord(
            self._parts.traces.join("answer", context.invocation_metadata() or ())
        )
        outcome = CANCELLED
        admission = self._gate.open(peer)
        try:
            admission.authorize(context)
            if not self._parts.engine.healthy:
                raise CloudUnreachable(
                    "the language engine here has stopped; ask again, another replica serves"
                )
            async with admission.time_limit(self._config.max_answer_seconds):
                responses = self._answer(admission, context, record)
                async with aclosing(responses):
                    async for response in responses:
                        # Not `yield`: with it gRPC waits for a slow reader outside of this block,
                        # where the timeout would end the call without a status.
                        await context.write(response)
            outcome = ANSWERED
        except TimeoutError:
            reason = admission.end_reason
            # The time limit also ends early: when the question is evicted, its credential is
            # refused, or the drain is over.
            outcome = "cut off" if self._gate.draining else "timeout"
            outcome = outcome if reason is None else type(reason).__name__
            _refuse(context, reason or self._timeout_error())
        except AlignedVQError as error:
            outcome = type(error).__name__
            admission.record_error(error)
            _refuse(context, error)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - a bug must end one call, not the service
            outcome = "bug"
            _log.exception("a question failed", extra=record.extra)
            _refuse(context, error)
        finally:
            admission.release()
            seconds = record.end(outcome, admission.identity)
            self._metrics.questions.labels(outcome).inc()
            self._metrics.seconds.observe(seconds)
            log_args = (outcome, seconds, admission.identity or "-")
            # Every answer is logged. Other outcomes are cheap to provoke, so they are rate limited.
            kind = None if outcome == ANSWERED else f"question {outcome}"
            extra = {**record.extra, LIMIT: kind}
            _log.info("question %s after %.3f s, from %s", *log_args, extra=extra)

    def _timeout_error(self) -> AlignedVQError:
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
        """Stop the decoding thread."""
        await self._decoder.close()

    async def _answer(
        self, admission: QuestionAdmission, context: Context, record: QuestionRecord
    ) -> AsyncGenerator[pb.AskResponse]:
        watch = Stopwatch()
        incoming = Incoming(
            context,
            self._parts.bundles,
            self._config.question_seconds,
            self._config.payload_seconds,
        )
        question = await incoming.question()
        admission.message_received()
        record.note(request_id=question.request_id)
        # Build the prompt before the payload arrives: an invalid question then costs no decoding.
        prompt_ids = self._parts.prompts.build(
            question.text, question.turns, text_only=question.text_only
        )
        sampling = self._sampling(question.sampling, len(prompt_ids))
        identity = admission.identity or ""
        image: QuestionImage | None = None
        if question.text_only:
            image = self._images.text_only(identity)
        elif question.image_digest:
            image = self._images.cached(identity, question.image_digest)
        if image is not None:
            admission.admit(context)
        else:
            if question.image_digest:
                # The image was evicted from the cache, so the client has to send it after all.
                yield convert.payload_needed_response()
            payload = await incoming.payload(question)
            watch.lap("receive")
            record.span.stages(watch.timings().stages_ns)
            record.note(payload_bytes=len(payload.body))
            self._metrics.payload.observe(len(payload.body))
            admission.admit(context)
            image = await self._images.decoded(
                identity, payload, watch.timings().stages_ns, record.span
            )
        # The client's id need not be unique, but the engine's must be.
        request_id = f"{question.request_id or 'anonymous'}-{uuid.uuid4().hex}"
        request = EngineRequest(request_id, prompt_ids, image.engine_input, sampling, image.key)
        begun = False
        async for chunk in self._chunks(request):
            if not begun:
                begun = True
                self._metrics.first_token.observe(record.seconds)
            completed = _completed(chunk, image)
            if completed.finish_reason is not None:
                self._metrics.answered(completed, image.source)
                record.answered(completed, chunk.timings.stages_ns if chunk.timings else {})
            for response in convert.chunk_to_responses(completed, image.digest):
                yield response

    async def _chunks(self, request: EngineRequest) -> AsyncIterator[TokenChunk]:
        """The engine's chunks; the engine aborts the request when the call ends early."""
        try:
            async for chunk in self._parts.engine.generate(request):
                yield chunk
        finally:
            # Does nothing for a finished answer; otherwise it frees the engine's slot at once.
            await self._parts.engine.abort(request.request_id)

    def _sampling(self, requested: Sampling, prompt_tokens: int) -> Sampling:
        """The client's sampling, with `max_tokens` capped by the service and the context."""
        max_tokens = requested.max_tokens or self._config.default_answer_tokens
        context_left = self._parts.prompts.limits.context_tokens - prompt_tokens
        return replace(
            requested, max_tokens=min(max_tokens, self._config.max_answer_tokens, context_left)
        )


def _completed(chunk: TokenChunk, image: QuestionImage) -> TokenChunk:
    """The chunk; if it is the last, with the usage and timings of the whole call."""
    if chunk.finish_reason is None:
        return chunk
    usage = chunk.usage or Usage(0, 0)
    engine = chunk.timings.stages_ns if chunk.timings else {}
    return replace(
        chunk,
        usage=replace(usage, image_cached=image.source == "held"),
        timings=Timings({**image.stages_ns, **engine}),
    )


def _refuse(context: grpc.aio.ServicerContext[Any, Any], error: BaseException) -> None:
    """Set the status that the call ends with once its method returns.

    Not `context.abort`: the exception it raises forms a reference cycle with the call, which then
    occupies one of the connection's streams until the garbage collector runs.
    """
    code, details, metadata = status_of(error)
    context.set_code(code)
    context.set_details(details)
    context.set_trailing_metadata(metadata)
