"""An engine made of replicas over HTTP: vLLM servers with this project's plug-in.

A prompt is sent as token ids, so nothing that a user typed can become a special token on the way,
and an image as indices. If a replica fails, another one answers; if the answer had begun, the other
replica continues after the tokens emitted so far, so no text is emitted twice.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import httpx2

from aligned_vq.answers import FinishReason, Sampling, TokenChunk
from aligned_vq.errors import CloudUnreachable, EngineError
from cloud_server.decode.index_arrays import IndexLayout
from cloud_server.engine.base import EngineRequest
from cloud_server.engine.replica_set import Replica, ReplicaSet
from cloud_server.engine.sampling import vllm_sampling
from cloud_server.engine.streaming import ChunkBuilder
from cloud_server.vllm_plugin.endpoint_filter import GENERATE

_log = logging.getLogger(__name__)

MAX_TRIES = 3
"""Most replicas to try for one question."""
_TIMEOUT = httpx2.Timeout(connect=2.0, read=30.0, write=10.0, pool=None)
"""In seconds; `read` limits the wait for each piece of an answer."""
_REASONS: dict[str, FinishReason] = {"stop": "stop", "length": "length"}
_QUOTED_CHARS = 200
"""Most characters of a replica's response to quote in an error."""


class _ReplicaFailed(Exception):
    """A replica failed in a way that another one may not."""


class _Piece(NamedTuple):
    """Token ids, and the finish reason if they are the last."""

    token_ids: Sequence[int]
    finish: str | None


@dataclass
class _ReplicaCall:
    """A question in flight at a replica."""

    replica: Replica | None = None
    aborted: bool = False
    abandoned: bool = False
    """Whether its replica left the rotation."""
    _wait: asyncio.Timeout | None = None

    async def next(self, pieces: AsyncIterator[_Piece]) -> _Piece | None:
        """The next piece; None if the call was aborted.

        Raises:
            _ReplicaFailed: the replica left the rotation meanwhile.
        """
        if self.aborted:
            return None
        try:
            async with asyncio.timeout(None) as self._wait:
                return await anext(pieces)
        except TimeoutError:
            if self.abandoned and not self.aborted:
                raise _ReplicaFailed("it became unhealthy") from None
            return None
        finally:
            self._wait = None

    def wake(self) -> None:
        """End the wait for a piece."""
        if self._wait is not None:
            self._wait.reschedule(0)  # a time in the past: due at once


class ReplicasEngine:
    """A `LanguageEngine` that distributes questions over replicas.

    Args:
        urls: see `ReplicaSet`.
        tokenizer: the checkpoint's.
        layout: of the image's index arrays.
        blank: a request that a replica must answer to join the rotation, which also shows that it
            serves the same bundle.
        on_retry: called whenever a question, or the rest of its answer, goes to another replica.

    Raises:
        ConfigError: `urls` are unusable.
    """

    def __init__(
        self,
        urls: Sequence[str],
        tokenizer: Any,
        layout: IndexLayout,
        blank: EngineRequest,
        on_retry: Callable[[], None] = lambda: None,
    ) -> None:
        self._tokenizer = tokenizer
        self._layout = layout
        self._blank = blank
        self._on_retry = on_retry
        # Admission control limits the questions, so the connections need no limit.
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=64)
        # `trust_env=False` ignores proxy variables: replicas are on the front tier's network.
        self._client = httpx2.AsyncClient(timeout=_TIMEOUT, limits=limits, trust_env=False)
        self.replicas = ReplicaSet(urls, self._client, self._probe, self._abandon)
        self._calls: dict[str, _ReplicaCall] = {}
        self._probes = 0

    @property
    def healthy(self) -> bool:
        """See `LanguageEngine.healthy`: true while any replica is in rotation."""
        return len(self.replicas) > 0

    @property
    def lost(self) -> bool:
        """See `LanguageEngine.lost`: never, as replicas can return."""
        return False

    async def generate(self, request: EngineRequest) -> AsyncIterator[TokenChunk]:
        """See `LanguageEngine.generate`."""
        call = self._calls[request.request_id] = _ReplicaCall()
        builder = ChunkBuilder(request, self._tokenizer)
        tried: list[Replica] = []
        try:
            while True:
                replica = self.replicas.next(tried)
                if replica is None:
                    raise CloudUnreachable(
                        f"expected an engine to answer, got none ({len(tried)} tried, "
                        f"{len(self.replicas)} healthy); try again in a moment"
                    )
                tried.append(replica)
                call.replica, call.abandoned = replica, False
                try:
                    async with aclosing(self._rest_from(replica, request, builder, call)) as chunks:
                        async for chunk in chunks:
                            if not _can_continue_elsewhere(request.sampling):
                                # Only this replica can finish it, whatever health checks say.
                                call.replica = None
                            yield chunk
                    return
                except _ReplicaFailed as error:
                    # Other questions should not try it either before it is healthy again.
                    self.replicas.leave(replica, str(error))
                    stuck = builder.started and not _can_continue_elsewhere(request.sampling)
                    if stuck or len(tried) == MAX_TRIES:
                        raise EngineError(
                            f"expected an engine to answer, got a failure ({error}); no retry, as "
                            f"{'a seeded answer had begun' if stuck else 'all tries are used up'}; "
                            "ask again"
                        ) from error
                    self._on_retry()
        finally:
            self._calls.pop(request.request_id, None)

    async def abort(self, request_id: str) -> None:
        """See `LanguageEngine.abort`."""
        if call := self._calls.get(request_id):
            call.aborted = True
            call.wake()

    async def warm_up(self) -> None:
        """Probe the present replicas; others may join later."""
        await self.replicas.start()
        if not self.healthy:
            _log.warning("no engine has joined yet")

    async def close(self) -> None:
        """See `LanguageEngine.close`."""
        for request_id in list(self._calls):
            await self.abort(request_id)
        await self.replicas.close()
        await self._client.aclose()

    def _abandon(self, replica: Replica) -> None:
        """Wake the calls of a replica that left the rotation, as it may have gone silent."""
        for call in self._calls.values():
            if call.replica is replica:
                call.abandoned = True
                call.wake()

    async def _probe(self, replica: Replica) -> None:
        self._probes += 1
        request = replace(self._blank, request_id=f"{self._blank.request_id}-{self._probes}")
        builder = ChunkBuilder(request, self._tokenizer)
        async for _ in self._rest_from(replica, request, builder, _ReplicaCall()):
            pass

    async def _rest_from(
        self, replica: Replica, request: EngineRequest, builder: ChunkBuilder, call: _ReplicaCall
    ) -> AsyncGenerator[TokenChunk]:
        """The rest of the answer from one replica; raises _ReplicaFailed if another may succeed."""
        remaining = _remaining_request(request, builder.token_ids)
        if remaining is None:
            yield builder.chunk((), "length")
            return
        async with aclosing(self._pieces(replica, remaining)) as pieces:
            while True:
                piece = await call.next(pieces)
                if piece is None:
                    yield builder.chunk((), "cancelled")
                    return
                if piece.finish is not None and piece.finish not in _REASONS:
                    raise _ReplicaFailed(f"it ended the answer with {piece.finish!r}")
                chunk = builder.chunk(piece.token_ids, _REASONS.get(piece.finish or ""))
                yield chunk
                if chunk.finish_reason is not None:
                    return

    async def _pieces(self, replica: Replica, request: EngineRequest) -> AsyncGenerator[_Piece]:
        """The pieces of a replica's response. Closing early closes the connection, which makes the
        replica stop."""
        try:
            http_request = replica.request(self._client, "POST", GENERATE, json=self._body(request))
            response = await self._client.send(http_request, stream=True)
            async with aclosing(response):
                if response.status_code != 200:
                    excerpt = (await response.aread()).decode(errors="replace")[:_QUOTED_CHARS]
                    if response.status_code in (400, 404, 422):  # every replica would refuse it
                        raise EngineError(
                            f"expected an engine that serves manifest "
                            f"{self._layout.manifest_digest.hex()} with this project's plug-in, "
                            f"got status {response.status_code} from {replica.url} ({excerpt}); "
                            "check the engines' bundle and plug-in"
                        )
                    raise _ReplicaFailed(f"{GENERATE} returned {response.status_code}: {excerpt}")
                async for event in httpx2.EventSource(response):
                    if event.data == "[DONE]":  # the end of a stream in OpenAI's protocol
                        break
                    piece = _piece(event.data)
                    if piece is not None:
                        yield piece
            raise _ReplicaFailed("its stream ended without a finish reason")
        except httpx2.HTTPError as error:
            raise _ReplicaFailed(type(error).__name__) from error

    def _body(self, request: EngineRequest) -> dict[str, Any]:
        body = {
            "request_id": request.request_id,
            "token_ids": list(request.prompt_ids),
            "sampling_params": vllm_sampling(request.sampling),
            "stream": True,
        }
        image_key = request.image_key.hex()
        if image_key:  # caches are salted per client, see `_image_key` of the service
            body["cache_salt"] = image_key
        if request.image is not None:
            part = {"type": "image_url", "url": self._layout.url(request.image)}
            body["content_parts"] = [part | ({"uuid": image_key} if image_key else {})]
        return body


def _can_continue_elsewhere(sampling: Sampling) -> bool:
    """Whether another replica can finish an answer. With a seed it cannot: it would have to start
    at the same position in the seed's random numbers."""
    return sampling.temperature == 0 or sampling.seed is None


def _remaining_request(request: EngineRequest, emitted: Sequence[int]) -> EngineRequest | None:
    """The request for the rest of an answer, with the emitted tokens appended to the prompt; None
    if its token limit is reached."""
    tokens_left = request.sampling.max_tokens - len(emitted)
    if tokens_left <= 0:
        return None
    prompt = [*request.prompt_ids, *emitted]
    return replace(
        request, prompt_ids=prompt, sampling=replace(request.sampling, max_tokens=tokens_left)
    )


def _piece(data: str) -> _Piece | None:
    """The piece in one event of the stream; None if the event has no choice.

    Raises:
        _ReplicaFailed: the event reports an error or is malformed.
    """
    try:
        event = json.loads(data)
        if "error" in event:
            raise _ReplicaFailed(f"it reported {json.dumps(event['error'])[:_QUOTED_CHARS]}")
        if not event["choices"]:
            return None
        choice = event["choices"][0]
        return _Piece([int(token) for token in choice["token_ids"]], choice["finish_reason"])
    except (ValueError, KeyError, TypeError) as error:
        raise _ReplicaFailed(f"it sent a malformed event ({type(error).__name__})") from error
