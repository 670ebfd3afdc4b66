"""Converts this project's types to messages and back: `x_to_proto` and `x_from_proto`.

A `from_proto` accepts only what the types allow. Invalid messages of a client raise InvalidInput,
ManifestMismatch or CorruptPayload; those of a service raise EngineError. Payloads are converted in
`protos.assembler`, which is re-exported here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from aligned_vq.answers import FinishReason, Sampling, Timings, TokenChunk, Usage
from aligned_vq.errors import EngineError
from aligned_vq.types import DIGEST_BYTES
from protos.alignedvq.v1 import inference_pb2 as pb
from protos.assembler import (
    CODINGS,
    PayloadAssembler,
    coding_from_proto,
    coding_to_proto,
    payload_to_parts,
)
from protos.messages import Question, ServiceInfo, Turn, check_sampling

__all__ = [
    "CODINGS",
    "FINISH_REASONS",
    "PayloadAssembler",
    "chunk_from_response",
    "chunk_to_responses",
    "coding_from_proto",
    "coding_to_proto",
    "finish_reason_from_proto",
    "finish_reason_to_proto",
    "image_digest_from_response",
    "is_payload_needed",
    "payload_needed_response",
    "payload_to_parts",
    "question_from_proto",
    "question_to_proto",
    "sampling_from_proto",
    "sampling_to_proto",
    "service_info_from_proto",
    "service_info_to_proto",
    "timings_from_proto",
    "timings_to_proto",
    "usage_from_proto",
    "usage_to_proto",
]

FINISH_REASONS: dict[FinishReason, pb.FinishReason.ValueType] = {
    "stop": pb.FINISH_REASON_STOP,
    "length": pb.FINISH_REASON_LENGTH,
    "cancelled": pb.FINISH_REASON_CANCELLED,
}
_FINISH_REASON_OF_NUMBER: dict[int, FinishReason] = {
    value: reason for reason, value in FINISH_REASONS.items()
}
_MAX_UINT64 = (1 << 64) - 1  # of `StageTiming.duration_ns`


def finish_reason_to_proto(reason: FinishReason) -> pb.FinishReason.ValueType:
    """A finish reason's number on the wire."""
    return FINISH_REASONS[reason]


def finish_reason_from_proto(value: int) -> FinishReason:
    """The finish reason of a number on the wire.

    Raises:
        EngineError: the number is unknown or unspecified.
    """
    reason = _FINISH_REASON_OF_NUMBER.get(value)
    if reason is None:
        raise EngineError(
            f"expected a finish reason among {', '.join(FINISH_REASONS)}, got number {value}; "
            "update this client to the version of the service"
        )
    return reason


def sampling_to_proto(sampling: Sampling) -> pb.SamplingParams:
    """Sampling as sent, where default values cost no bytes.

    Raises:
        InvalidInput: a value is out of range.
    """
    check_sampling(sampling)
    return pb.SamplingParams(
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        # 0 is proto3's default and takes no bytes.
        top_p=0.0 if sampling.top_p == 1 else sampling.top_p,
        seed=sampling.seed,
        stop=sampling.stop,
    )


def sampling_from_proto(message: pb.SamplingParams) -> Sampling:
    """Sampling as received: `max_tokens` 0 stays the service's default, `top_p` 0 becomes 1.

    Raises:
        InvalidInput: a number is not finite or out of range.
    """
    sampling = Sampling(
        max_tokens=message.max_tokens,
        temperature=_shortest(message.temperature),
        top_p=1.0 if message.top_p == 0 else _shortest(message.top_p),
        # The field is optional on the wire, as 0 is a valid seed.
        seed=message.seed if message.HasField("seed") else None,
        stop=tuple(message.stop),
    )
    check_sampling(sampling)
    return sampling


def _shortest(value: float) -> float:
    """The shortest decimal of a float32, such as 0.7, so that both sides use the user's number."""
    # In float64, the type of Python, the float32 0.7 is 0.699999988.
    return float(str(np.float32(value)))


def question_to_proto(
    question: Question, first_part: pb.PayloadPart | None = None
) -> pb.QuestionOpen:
    """The message that opens a stream of AskRequest, with the first payload part if given."""
    return pb.QuestionOpen(
        request_id=question.request_id,
        manifest_digest=question.manifest_digest,
        question=question.text,
        sampling=sampling_to_proto(question.sampling),
        image_digest=question.image_digest,
        turns=[pb.Turn(question=turn.question, answer=turn.answer) for turn in question.turns],
        text_only=question.text_only,
        payload=first_part,
    )


def question_from_proto(message: pb.QuestionOpen) -> Question:
    """The validated question.

    Raises:
        ManifestMismatch: the manifest digest is not 16 bytes.
        InvalidInput: the request id, the image digest, a text or the sampling is invalid.
    """
    return Question(
        request_id=message.request_id,
        manifest_digest=message.manifest_digest,
        text=message.question,
        sampling=sampling_from_proto(message.sampling),
        image_digest=message.image_digest,
        turns=tuple(Turn(turn.question, turn.answer) for turn in message.turns),
        text_only=message.text_only,
    )


def service_info_to_proto(info: ServiceInfo) -> pb.GetManifestResponse:
    """The response to GetManifest."""
    return pb.GetManifestResponse(
        manifest_json=info.manifest_json,
        manifest_digest=info.manifest_digest,
        max_question_chars=info.max_question_chars,
        max_answer_tokens=info.max_answer_tokens,
        service_version=info.service_version,
        served_digests=info.served_digests,
    )


def service_info_from_proto(message: pb.GetManifestResponse) -> ServiceInfo:
    """The service's manifest and limits.

    Raises:
        ManifestMismatch: a digest is not 16 bytes.
    """
    return ServiceInfo(
        manifest_json=message.manifest_json,
        manifest_digest=message.manifest_digest,
        max_question_chars=message.max_question_chars,
        max_answer_tokens=message.max_answer_tokens,
        service_version=message.service_version,
        served_digests=tuple(message.served_digests),
    )


def usage_to_proto(usage: Usage) -> pb.Usage:
    """Token counts as sent."""
    return pb.Usage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        image_cached=usage.image_cached,
    )


def usage_from_proto(message: pb.Usage) -> Usage:
    """Token counts as received."""
    return Usage(message.prompt_tokens, message.completion_tokens, message.image_cached)


def timings_to_proto(timings: Timings) -> list[pb.StageTiming]:
    """One message per stage, nanoseconds, in the order the stages ran."""
    return [
        pb.StageTiming(stage=stage, duration_ns=duration_ns)
        for stage, duration_ns in timings.stages_ns.items()
    ]


def timings_from_proto(messages: Iterable[pb.StageTiming]) -> Timings:
    """Nanoseconds by stage in the order received. Repeated stages are summed, up to the 64 bits of
    the wire."""
    stages_ns: dict[str, int] = {}
    for message in messages:
        # Untrusted numbers: a sum beyond 64 bits could not be sent on.
        total = stages_ns.get(message.stage, 0) + message.duration_ns
        stages_ns[message.stage] = min(total, _MAX_UINT64)
    return Timings(stages_ns)


def chunk_to_responses(chunk: TokenChunk, image_digest: bytes = b"") -> Iterator[pb.AskResponse]:
    """No, one or two responses: the text if there is any, then the completion if it is the last.

    Args:
        chunk: a piece of the answer; only one with a finish reason may carry usage and timings.
        image_digest: 16 bytes under which the service holds the image, or empty; sent on the last.
    """
    # A token without text counts too: it may be a part of a character.
    if chunk.text or chunk.token_ids:
        yield pb.AskResponse(chunk=pb.TextChunk(text=chunk.text, token_ids=chunk.token_ids))
    if chunk.finish_reason is None:
        if chunk.usage is not None or chunk.timings is not None:
            raise ValueError(
                "expected a finish reason in a chunk with usage or timings, got none; send them "
                "with the last chunk"
            )
        return
    yield pb.AskResponse(
        done=pb.Completion(
            finish_reason=finish_reason_to_proto(chunk.finish_reason),
            usage=None if chunk.usage is None else usage_to_proto(chunk.usage),
            timings=[] if chunk.timings is None else timings_to_proto(chunk.timings),
            image_digest=image_digest,
        )
    )


def chunk_from_response(response: pb.AskResponse) -> TokenChunk:
    """A chunk of the answer; the one with a finish reason is the last and has no text.

    `usage` is None when the service sent none, `timings` when it named no stage.

    Raises:
        EngineError: the response is neither text nor a completion, or its finish reason is unknown.
    """
    match response.WhichOneof("kind"):
        case "chunk":
            return TokenChunk(response.chunk.text, tuple(response.chunk.token_ids))
        case "done":
            done = response.done
            return TokenChunk(
                text="",
                finish_reason=finish_reason_from_proto(done.finish_reason),
                usage=usage_from_proto(done.usage) if done.HasField("usage") else None,
                timings=timings_from_proto(done.timings) if done.timings else None,
            )
        case kind:
            raise EngineError(
                f"expected text or a completion, got {kind or 'an unknown response'}; update this "
                "client to the version of the service"
            )


def image_digest_from_response(response: pb.AskResponse) -> bytes:
    """The 16-byte image digest for follow-up questions; empty if the image is not cached.

    Raises:
        EngineError: the digest has another length.
    """
    digest = response.done.image_digest
    if len(digest) not in (0, DIGEST_BYTES):
        raise EngineError(
            f"expected an image digest of {DIGEST_BYTES} bytes or none, got {len(digest)} bytes; "
            "update this client to the version of the service"
        )
    return digest


def payload_needed_response() -> pb.AskResponse:
    """The response that requests the payload of an image that is not cached any more."""
    return pb.AskResponse(payload_needed=pb.PayloadNeeded())


def is_payload_needed(response: pb.AskResponse) -> bool:
    """Whether the response requests the payload of an image that is not cached any more."""
    return response.HasField("payload_needed")
