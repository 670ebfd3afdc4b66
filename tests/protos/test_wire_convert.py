"""Round trips of `protos.convert`, and what it refuses."""

from __future__ import annotations

import math
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligned_vq.answers import FinishReason, Sampling, Timings, TokenChunk, Usage
from aligned_vq.errors import CorruptPayload, EngineError, InvalidInput, ManifestMismatch
from aligned_vq.types import Coding
from protos import convert
from protos.alignedvq.v1 import inference_pb2 as pb
from protos.messages import Question, ServiceInfo, Turn

DIGEST = bytes(range(16))
COUNTS = st.integers(0, 2**32 - 1)
REASONS = st.sampled_from(get_args(FinishReason))
SAMPLINGS = st.builds(
    Sampling,
    max_tokens=st.integers(0, 65_535),
    temperature=st.integers(0, 200).map(lambda n: n / 100),
    top_p=st.integers(1, 1_000).map(lambda n: n / 1_000),
    seed=st.none() | st.integers(0, 2**64 - 1),
    stop=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), max_size=4).map(
        tuple
    ),
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
ABOUT = st.sampled_from(({"text_only": True}, {"image_digest": DIGEST}, {}))
QUESTIONS = st.builds(
    lambda about, **fields: Question(**fields, **about),
    ABOUT,
    request_id=st.from_regex(r"[A-Za-z0-9._:-]{0,64}", fullmatch=True),
    manifest_digest=st.binary(min_size=16, max_size=16),
    text=TEXTS,
    sampling=SAMPLINGS,
    turns=st.lists(st.builds(Turn, TEXTS, TEXTS), max_size=3).map(tuple),
)
TIMINGS = st.dictionaries(st.text("abc_", min_size=1), st.integers(0, 2**64 - 1), max_size=4)


@given(SAMPLINGS)
def test_sampling_round_trip(sampling: Sampling) -> None:
    wire = convert.sampling_to_proto(sampling).SerializeToString()
    assert convert.sampling_from_proto(pb.SamplingParams.FromString(wire)) == sampling


@given(st.just(0.0) | st.floats(0.01, 2), st.floats(1e-6, 1))
def test_sampling_of_any_float_stays_near_and_allowed(temperature: float, top_p: float) -> None:
    sampling = Sampling(temperature=temperature, top_p=top_p)
    back = convert.sampling_from_proto(convert.sampling_to_proto(sampling))
    assert back.temperature == pytest.approx(temperature, rel=1e-6)
    assert back.top_p == pytest.approx(top_p, rel=1e-6)


def test_wire_defaults_cost_nothing_and_mean_greedy() -> None:
    assert convert.sampling_to_proto(Sampling(max_tokens=0)).SerializeToString() == b""
    assert convert.sampling_from_proto(pb.SamplingParams()) == Sampling(max_tokens=0)
    assert convert.sampling_from_proto(pb.SamplingParams(seed=0)).seed == 0


@pytest.mark.parametrize(
    ("message", "word"),
    [
        (pb.SamplingParams(max_tokens=65_536), "max_tokens"),
        (pb.SamplingParams(temperature=math.nan), "temperature"),
        (pb.SamplingParams(temperature=math.inf), "temperature"),
        (pb.SamplingParams(temperature=-0.5), "temperature"),
        (pb.SamplingParams(temperature=1e-45), "temperature 0 or from 0.01 to 2, got 1.*e-45"),
        (pb.SamplingParams(temperature=1e-30), "temperature"),
        (pb.SamplingParams(temperature=0.0099), "temperature"),
        (pb.SamplingParams(temperature=2.001), "temperature"),
        (pb.SamplingParams(temperature=10), "temperature 0 or from 0.01 to 2, got 10.0"),
        (pb.SamplingParams(temperature=3.4e38), "temperature"),
        (pb.SamplingParams(top_p=1e-45), "top_p from 0.000001 to 1, got 1.*e-45"),
        (pb.SamplingParams(top_p=9.9e-7), "top_p"),
        (pb.SamplingParams(top_p=1.0000001), "top_p"),
        (pb.SamplingParams(top_p=math.nan), "top_p"),
        (pb.SamplingParams(top_p=-math.inf), "top_p"),
        (pb.SamplingParams(top_p=-0.1), "top_p"),
        (pb.SamplingParams(top_p=1.5), "top_p"),
    ],
)
def test_sampling_out_of_range_is_refused_on_both_sides(
    message: pb.SamplingParams, word: str
) -> None:
    with pytest.raises(InvalidInput, match=word):
        convert.sampling_from_proto(message)
    with pytest.raises(InvalidInput, match=word):
        convert.sampling_to_proto(
            Sampling(message.max_tokens, message.temperature, message.top_p or 1.0)
        )


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seed_out_of_range_is_refused(seed: int) -> None:
    with pytest.raises(InvalidInput, match="seed"):
        convert.sampling_to_proto(Sampling(seed=seed))


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"temperature": 10**400}, "temperature .* got a number of more than 30 digits"),
        ({"max_tokens": 10**5000}, "max_tokens .* got a number of more than 30 digits"),
        ({"max_tokens": -(10**5000)}, "max_tokens .* got a number of more than 30 digits"),
        ({"seed": 10**5000}, "seed .* got a number of more than 30 digits"),
        ({"max_tokens": 1.5}, "max_tokens to be an integer, got float"),
        ({"max_tokens": True}, "max_tokens"),
        ({"temperature": "hot"}, "temperature to be a number, got str"),
        ({"top_p": None}, "top_p"),
        ({"seed": 1.0}, "seed to be an integer or None"),
        ({"stop": "word"}, "stop to be a tuple of texts"),
        ({"stop": (b"word",)}, "stop texts of type str"),
        ({"stop": ("",)}, "1 to 256 characters"),
        ({"stop": ("x" * 257,)}, "1 to 256 characters"),
        ({"stop": ("a",) * 5}, "at most 4"),
        ({"stop": ("half \udce9",)}, "surrogate"),
    ],
)
def test_sampling_of_another_kind_is_refused(fields: dict[str, Any], word: str) -> None:
    with pytest.raises(InvalidInput, match=word):
        convert.sampling_to_proto(Sampling(**fields))


@pytest.mark.parametrize("zero", [0, 0.0, -0.0])
def test_zero_of_either_sign_means_the_default(zero: float) -> None:
    message = pb.SamplingParams(temperature=zero, top_p=zero)
    assert convert.sampling_from_proto(message) == Sampling(temperature=0, top_p=1)


def test_stop_texts_stay_out_of_repr() -> None:
    assert "secret" not in repr(Sampling(stop=("a secret",)))


@given(QUESTIONS)
def test_question_round_trip(question: Question) -> None:
    wire = convert.question_to_proto(question).SerializeToString()
    assert convert.question_from_proto(pb.QuestionOpen.FromString(wire)) == question


@pytest.mark.parametrize("size", [0, 15, 17])
def test_manifest_digest_of_another_length_is_a_mismatch(size: int) -> None:
    with pytest.raises(ManifestMismatch, match=f"16 bytes, got {size}"):
        convert.question_from_proto(pb.QuestionOpen(manifest_digest=bytes(size)))
    with pytest.raises(ManifestMismatch, match="16 bytes"):
        convert.service_info_from_proto(pb.GetManifestResponse(manifest_digest=bytes(size)))


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"image_digest": bytes(15)}, "image digest"),
        ({"image_digest": bytes(16), "text_only": True}, "no image digest in a text-only question"),
        ({"request_id": "two\nlines"}, "request id"),
        ({"request_id": "trailing\n"}, "request id"),
        ({"request_id": "x" * 65}, "request id"),
        ({"sampling": pb.SamplingParams(temperature=11)}, "temperature"),
    ],
)
def test_bad_question_is_refused(fields: dict[str, object], word: str) -> None:
    message = pb.QuestionOpen(manifest_digest=DIGEST, **fields)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match=word):
        convert.question_from_proto(message)


def test_half_a_surrogate_pair_is_refused_before_it_is_sent() -> None:
    with pytest.raises(InvalidInput, match="surrogate"):
        Question("", DIGEST, "caf\udce9")
    for turn, what in ((Turn("caf\udce9", ""), "question"), (Turn("", "caf\udce9"), "answer")):
        with pytest.raises(InvalidInput, match=f"{what} must be valid Unicode.*surrogate"):
            Question("", DIGEST, "why?", turns=(turn,))


def test_question_text_stays_out_of_repr() -> None:
    turn = Turn("a secret", "the secret")
    assert "secret" not in repr(Question("r", DIGEST, "a secret", turns=(turn,)))
    assert "secret" not in repr(turn)


@given(st.text("{}[]:,\"ab'"), COUNTS, COUNTS)
def test_service_info_round_trip(manifest_json: str, chars: int, tokens: int) -> None:
    info = ServiceInfo(manifest_json, DIGEST, chars, tokens, "0.1.0", (DIGEST, bytes(16)))
    wire = convert.service_info_to_proto(info).SerializeToString()
    assert convert.service_info_from_proto(pb.GetManifestResponse.FromString(wire)) == info


@given(st.builds(Usage, COUNTS, COUNTS, st.booleans()))
def test_usage_round_trip(usage: Usage) -> None:
    wire = convert.usage_to_proto(usage).SerializeToString()
    assert convert.usage_from_proto(pb.Usage.FromString(wire)) == usage


@given(TIMINGS)
def test_timings_round_trip_in_order(stages_ns: dict[str, int]) -> None:
    back = convert.timings_from_proto(convert.timings_to_proto(Timings(stages_ns)))
    assert list(back.stages_ns.items()) == list(stages_ns.items())


def test_stage_named_twice_counts_its_sum() -> None:
    stages = [pb.StageTiming(stage="decode", duration_ns=n) for n in (1, 2)]
    assert convert.timings_from_proto(stages) == Timings({"decode": 3})


@given(st.text(st.characters(exclude_categories=["Cs"])), st.lists(COUNTS, max_size=5))
def test_text_chunk_round_trip(text: str, token_ids: list[int]) -> None:
    chunk = TokenChunk(text, tuple(token_ids))
    responses = list(convert.chunk_to_responses(chunk))
    assert [convert.chunk_from_response(response) for response in responses] == (
        [chunk] if text or token_ids else []
    )


@given(REASONS, st.booleans(), TIMINGS, st.sampled_from([b"", DIGEST]))
def test_last_chunk_becomes_text_and_completion(
    reason: FinishReason, counted: bool, stages_ns: dict[str, int], image_digest: bytes
) -> None:
    usage = Usage(600, 3, image_cached=True) if counted else None
    timings = Timings(stages_ns) if stages_ns else None
    chunk = TokenChunk("the end", (5, 6), reason, usage, timings)
    text, done = convert.chunk_to_responses(chunk, image_digest)
    assert convert.chunk_from_response(text) == TokenChunk("the end", (5, 6))
    assert convert.chunk_from_response(done) == TokenChunk("", (), reason, usage, timings)
    assert convert.image_digest_from_response(done) == image_digest
    assert convert.image_digest_from_response(text) == b""


def test_usage_without_a_finish_reason_is_a_bug() -> None:
    with pytest.raises(ValueError, match="finish reason"):
        list(convert.chunk_to_responses(TokenChunk("", usage=Usage(1, 1))))


def test_payload_needed() -> None:
    needed = convert.payload_needed_response()
    assert convert.is_payload_needed(needed)
    assert not convert.is_payload_needed(pb.AskResponse(chunk=pb.TextChunk(text="a")))


@pytest.mark.parametrize(
    "response",
    [
        pb.AskResponse(),
        convert.payload_needed_response(),
        pb.AskResponse(done=pb.Completion()),
    ],
)
def test_response_that_is_no_part_of_an_answer(response: pb.AskResponse) -> None:
    with pytest.raises(EngineError, match=r"expected text|expected a finish reason"):
        convert.chunk_from_response(response)


def test_image_digest_of_another_length_is_refused() -> None:
    with pytest.raises(EngineError, match="got 3"):
        convert.image_digest_from_response(pb.AskResponse(done=pb.Completion(image_digest=b"abc")))


def test_each_wire_coding_is_exactly_one_of_ours() -> None:
    ours = [convert.coding_to_proto(coding) for coding in get_args(Coding)]
    assert sorted(ours) == [number for number in pb.Coding.values() if number != 0]
    assert [convert.coding_from_proto(number) for number in ours] == list(get_args(Coding))
    for number in (0, 99):
        with pytest.raises(CorruptPayload, match=f"number {number}"):
            convert.coding_from_proto(number)


def test_each_wire_finish_reason_is_exactly_one_of_ours() -> None:
    ours = [convert.finish_reason_to_proto(reason) for reason in get_args(FinishReason)]
    assert sorted(ours) == [number for number in pb.FinishReason.values() if number != 0]
    back = [convert.finish_reason_from_proto(number) for number in ours]
    assert back == list(get_args(FinishReason))
    for number in (0, 99):
        with pytest.raises(EngineError, match=f"number {number}"):
            convert.finish_reason_from_proto(number)


def test_exported_names_are_sorted_and_exist() -> None:
    assert convert.__all__ == sorted(convert.__all__)
    assert all(hasattr(convert, name) for name in convert.__all__)
