"""Errors over a real gRPC server and client on 127.0.0.1."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from concurrent import futures

import grpc
import pytest

from aligned_vq import errors
from aligned_vq.errors import AlignedVQError
from protos.alignedvq.v1 import inference_pb2 as pb
from protos.alignedvq.v1 import inference_pb2_grpc as pb_grpc
from protos.status import ERROR_KEY, RETRY_KEY, STATUS_CODES, UNNAMED, error_from_rpc, status_of

OPTIONS = [("grpc.enable_http_proxy", 0)]
LIMIT_S = 5.0


def subclasses(base: type[AlignedVQError]) -> Iterator[type[AlignedVQError]]:
    yield base
    for child in base.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from subclasses(child)


ERRORS = sorted(set(subclasses(AlignedVQError)), key=lambda error: error.__name__)


class Failing(pb_grpc.SplitInferenceServicer):
    """Ends every call with the error whose class and message the caller's metadata contains."""

    def GetManifest(  # noqa: N802
        self, request: pb.GetManifestRequest, context: grpc.ServicerContext
    ) -> pb.GetManifestResponse:
        self._fail(context)
        return pb.GetManifestResponse()

    def Ask(  # noqa: N802
        self, request_iterator: Iterator[pb.AskRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.AskResponse]:
        for _ in request_iterator:
            pass
        yield pb.AskResponse(chunk=pb.TextChunk(text="so far"))
        self._fail(context)

    def _fail(self, context: grpc.ServicerContext) -> None:
        metadata = dict(context.invocation_metadata())
        if "sleep" in metadata:
            time.sleep(float(metadata["sleep"]))
        if "bare" in metadata:
            context.abort(grpc.StatusCode[str(metadata["bare"])], "by hand")
        if "error" in metadata:
            message = bytes(metadata["words-bin"]).decode()  # type: ignore[arg-type]
            status = status_of(getattr(errors, str(metadata["error"]))(message))
            hint = [(key, value) for key, value in metadata.items() if key == RETRY_KEY]
            context.set_trailing_metadata((*status.trailing_metadata, *hint))
            context.abort(status.code, status.details)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server = grpc.server(
        futures.ThreadPoolExecutor(max_workers=4),
        options=[("grpc.max_receive_message_length", 4_096)],
    )
    pb_grpc.add_SplitInferenceServicer_to_server(Failing(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait(LIMIT_S)


@pytest.fixture(scope="module")
def stub(address: str) -> Iterator[pb_grpc.SplitInferenceStub]:
    with grpc.insecure_channel(address, options=OPTIONS) as channel:
        yield pb_grpc.SplitInferenceStub(channel)


def call(
    stub: pb_grpc.SplitInferenceStub, timeout_s: float = LIMIT_S, **metadata: str | bytes
) -> AlignedVQError:
    pairs = tuple((key.replace("_", "-"), value) for key, value in metadata.items())
    with pytest.raises(grpc.RpcError) as caught:
        stub.GetManifest(pb.GetManifestRequest(), timeout=timeout_s, metadata=pairs)
    return error_from_rpc(caught.value)


def test_every_error_and_every_code_is_in_the_tables() -> None:
    assert set(STATUS_CODES) == set(ERRORS)
    assert set(UNNAMED) == set(grpc.StatusCode) - {grpc.StatusCode.OK}


@pytest.mark.parametrize("error", ERRORS)
def test_every_error_survives_a_unary_call(
    stub: pb_grpc.SplitInferenceStub, error: type[AlignedVQError]
) -> None:
    words = "expected 16 bytes, got 15 \N{EM DASH} 100 % schön: send it again"
    back = call(stub, error=error.__name__, words_bin=words.encode())
    assert type(back) is error
    assert str(back) == words


@pytest.mark.parametrize("error", ERRORS)
def test_every_error_survives_a_stream_after_text(
    stub: pb_grpc.SplitInferenceStub, error: type[AlignedVQError]
) -> None:
    metadata = (("error", error.__name__), ("words-bin", b"mid-stream"))
    answer = stub.Ask(iter([pb.AskRequest()]), timeout=LIMIT_S, metadata=metadata)
    assert next(answer).chunk.text == "so far"
    with pytest.raises(grpc.RpcError) as caught:
        next(answer)
    assert type(error_from_rpc(caught.value)) is error
    assert caught.value.code() is STATUS_CODES[error]


def test_errors_of_the_asyncio_client_are_read_too(address: str) -> None:
    async def ask() -> list[AlignedVQError]:
        got = []
        async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
            stub = pb_grpc.SplitInferenceStub(channel)
            for metadata in (
                (("error", "ManifestMismatch"), ("words-bin", b"other bundle")),
                (("bare", "RESOURCE_EXHAUSTED"),),
            ):
                try:
                    await stub.GetManifest(
                        pb.GetManifestRequest(), timeout=LIMIT_S, metadata=metadata
                    )
                except grpc.aio.AioRpcError as error:
                    got.append(error_from_rpc(error))
        return got

    named, bare = asyncio.run(ask())
    assert type(named) is errors.ManifestMismatch
    assert str(named) == "other bundle"
    assert type(bare) is errors.Overloaded


class AsyncFailing(pb_grpc.SplitInferenceServicer):
    async def GetManifest(  # noqa: N802
        self,
        request: pb.GetManifestRequest,
        context: grpc.aio.ServicerContext[pb.GetManifestRequest, pb.GetManifestResponse],
    ) -> pb.GetManifestResponse:
        await context.abort(*status_of(errors.Overloaded("8 of 8 questions in flight: wait")))
        raise AssertionError

    def Ask(self, request_iterator: object, context: object) -> Iterator[pb.AskResponse]:  # noqa: N802
        raise NotImplementedError


def test_an_asyncio_service_aborts_with_a_status() -> None:
    async def ask() -> AlignedVQError:
        server = grpc.aio.server()
        pb_grpc.add_SplitInferenceServicer_to_server(AsyncFailing(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            address = f"127.0.0.1:{port}"
            async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
                stub = pb_grpc.SplitInferenceStub(channel)
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await stub.GetManifest(pb.GetManifestRequest(), timeout=LIMIT_S)
                return error_from_rpc(caught.value)
        finally:
            await server.stop(0)

    back = asyncio.run(ask())
    assert type(back) is errors.Overloaded
    assert str(back) == "8 of 8 questions in flight: wait"


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code.name != "OK"])
def test_every_status_code_without_an_error_name_gets_a_message(
    stub: pb_grpc.SplitInferenceStub, code: grpc.StatusCode
) -> None:
    back = call(stub, bare=code.name)
    assert type(back) is UNNAMED[code].error
    assert str(back) == f"{UNNAMED[code].message} ({code.name}: by hand)"


def test_message_over_the_limit_is_invalid_input(stub: pb_grpc.SplitInferenceStub) -> None:
    large = pb.AskRequest(open=pb.QuestionOpen(question="x" * 5_000))
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.Ask(iter([large]), timeout=LIMIT_S))
    back = error_from_rpc(caught.value)
    assert type(back) is errors.InvalidInput
    assert "4096" in str(back)


def test_deadline(stub: pb_grpc.SplitInferenceStub) -> None:
    assert type(call(stub, timeout_s=0.1, sleep="0.3")) is errors.DeadlineExceeded


def test_cancelled_call_is_not_an_answer(stub: pb_grpc.SplitInferenceStub) -> None:
    answer = stub.Ask(iter([pb.AskRequest()]), timeout=LIMIT_S, metadata=(("sleep", "0.3"),))
    assert next(answer).chunk.text == "so far"
    answer.cancel()
    with pytest.raises(grpc.RpcError) as caught:
        next(answer)
    assert type(error_from_rpc(caught.value)) is errors.CloudUnreachable


def test_an_address_without_a_server_is_unreachable() -> None:
    with (
        socket.socket() as bound
    ):  # bound but not listening, so that no other process takes the port
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        with grpc.insecure_channel(address, options=OPTIONS) as channel:
            back = call(pb_grpc.SplitInferenceStub(channel))
    assert type(back) is errors.CloudUnreachable
    assert "no service answered" in str(back)


def test_a_grpc_server_of_another_protocol_is_recognised() -> None:
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS) as channel:
            back = call(pb_grpc.SplitInferenceStub(channel))
    finally:
        server.stop(0).wait(LIMIT_S)
    assert type(back) is errors.CloudUnreachable
    assert "does not speak alignedvq.v1" in str(back)


@pytest.mark.parametrize("message", ["é" * 5_000, "a\r\nb\x00c", "\udce9" * 2_000, "😀" * 999, ""])
def test_details_are_bounded_and_printable_for_any_message(
    stub: pb_grpc.SplitInferenceStub, message: str
) -> None:
    details = status_of(errors.InvalidInput(message)).details
    assert len(details.encode()) <= 1_000
    assert details.isprintable()
    back = call(stub, error="InvalidInput", words_bin=details.encode())
    assert type(back) is errors.InvalidInput
    assert str(back) == details


def test_other_exceptions_are_sent_without_their_messages() -> None:
    status = status_of(KeyError("/home/someone/secret"))
    assert status.code is grpc.StatusCode.INTERNAL
    assert "secret" not in status.details
    assert status.trailing_metadata == ((ERROR_KEY, "EngineError"),)


def test_a_subclass_is_sent_as_its_ancestor() -> None:
    class TooLong(errors.InvalidInput):
        pass

    status = status_of(TooLong("half as long, please"))
    assert status.code is grpc.StatusCode.INVALID_ARGUMENT
    assert status.trailing_metadata == ((ERROR_KEY, "InvalidInput"),)


def test_a_bare_rpc_error_is_unreachable() -> None:
    assert type(error_from_rpc(grpc.RpcError("channel closed"))) is errors.CloudUnreachable


def test_the_wait_of_an_error_is_sent_as_metadata() -> None:
    status = status_of(errors.QuotaExceeded("wait", 0.2501))
    assert status.trailing_metadata == ((ERROR_KEY, "QuotaExceeded"), (RETRY_KEY, "251"))
    assert dict(status_of(errors.QuotaExceeded("wait", 1e9)).trailing_metadata)[RETRY_KEY] == (
        "3600000"
    )
    assert RETRY_KEY not in dict(status_of(errors.Overloaded("full")).trailing_metadata)


@pytest.mark.parametrize(
    ("hint", "seconds"),
    [
        ("250", 0.25),
        ("0", 0.0),
        ("99999999", 3600.0),
        ("-1", None),
        ("1e3", None),
        ("9" * 99, None),
    ],
)
def test_the_wait_is_read_if_it_is_valid(
    stub: pb_grpc.SplitInferenceStub, hint: str, seconds: float | None
) -> None:
    for name in ("QuotaExceeded", "Overloaded"):
        back = call(stub, error=name, words_bin=b"wait", retry_after_ms=hint)
        assert isinstance(back, errors.Overloaded)
        assert back.retry_after_seconds == seconds
