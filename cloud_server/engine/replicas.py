"""Independent engines behind HTTP: vLLM servers with this project's plug-in, one front tier.

A prompt goes out as token ids, never as text, so nothing that a user typed can become special on
the way; an image goes out as indices. A question whose engine fails is asked of another one; where
an answer had begun, the other one goes on behind the tokens told so far, so nobody is told anything
twice.
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
from cloud_server.engine.streaming import TokenPieces
from cloud_server.vllm_plugin.endpoint_filter import GENERATE

_log = logging.getLogger(__name__)

TRIES = 3
"""Replicas that one question may be asked of."""
_TIMEOUT = httpx2.Timeout(connect=2.0, read=30.0, write=10.0, pool=None)
"""Seconds; `read` is between two pieces of an answer, the first included."""
_REASONS: dict[str, FinishReason] = {"stop": "stop", "length": "length"}
_SAID = 200
"""Characters of a replica's own words that an error repeats."""


class _ReplicaFailed(Exception):
    """A replica did not answer; another one may."""


class _Piece(NamedTuple):
    """Token ids, and why they are the last."""

    token_ids: Sequence[int]
    finish: str | None


@dataclass
class _ReplicaCall:
    """A question in flight, asked of a replica."""

    replica: Replica | None = None
    aborted: bool = False
    abandoned: bool = False
    """Its replica left."""
    waiting: asyncio.Timeout | None = None

    async def next(self, pieces: AsyncIterator[_Piece]) -> _Piece | None:
        """The next piece; None once the call was aborted."""
        if self.aborted:
            return None
        try:
            async with asyncio.timeout(None) as self.waiting:
                return await anext(pieces)
        except TimeoutError:
            if self.abandoned and not self.aborted:
                raise _ReplicaFailed("it was not healthy any more") from None
            return None
        finally:
            self.waiting = None

    def wake(self) -> None:
        """End the wait for a piece."""
        if self.waiting is not None:
            self.waiting.reschedule(0)


class ReplicasEngine:
    """A `LanguageEngine` over engines that are reached by HTTP.

    Args:
        urls: see `ReplicaSet`.
        tokenizer: the checkpoint's.
        layout: of the images.
        blank: a question about nothing; a replica joins once it has answered it, which also shows
            that it serves the same bundle.
        on_retry: told every time a question is asked of another replica, or the rest of an answer.

    Raises:
        ConfigError: `urls` cannot be used.
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
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=64)
        # No proxy of the environment: engines are the front tier's neighbours.
        self._client = httpx2.AsyncClient(timeout=_TIMEOUT, limits=limits, trust_env=False)
        self.replicas = ReplicaSet(urls, self._client, self._probe, self._abandon)
        self._calls: dict[str, _ReplicaCall] = {}
        self._probes = 0

    @property
    def healthy(self) -> bool:
        """See `LanguageEngine.healthy`; here it comes back with the first replica that does."""
        return len(self.replicas) > 0

    @property
    def lost(self) -> bool:
        """See `LanguageEngine.lost`: never, engines come back."""
        return False

    async def generate(self, request: EngineRequest) -> AsyncIterator[TokenChunk]:
        """See `LanguageEngine.generate`."""
        call = self._calls[request.request_id] = _ReplicaCall()
        answer = TokenPieces(request, self._tokenizer)
        tried: list[Replica] = []
        try:
            while True:
                replica = self.replicas.next(tried)
                if replica is None:
                    raise CloudUnreachable(
                        f"no engine can answer ({len(tried)} tried, {len(self.replicas)} healthy); "
                        "try again in a moment"
                    )
                tried.append(replica)
                call.replica, call.abandoned = replica, False
                try:
                    async with aclosing(self._asked(replica, request, answer, call)) as chunks:
                        async for chunk in chunks:
                            if not _may_go_on_elsewhere(request.sampling):
                                call.replica = None  # its own to finish, healthy or not
                            yield chunk
                    return
                except _ReplicaFailed as error:
                    self.replicas.leave(replica, str(error))
                    stuck = answer.started and not _may_go_on_elsewhere(request.sampling)
                    if stuck or len(tried) == TRIES:
                        raise EngineError(
                            f"an engine failed on this question ({error}) and it was not asked "
                            f"again: {'its seeded answer had begun' if stuck else 'no try left'}"
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
        """Let in the replicas that are there now; others join later."""
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
        """Nobody waits for a replica that may have gone silent."""
        for call in self._calls.values():
            if call.replica is replica:
                call.abandoned = True
                call.wake()

    async def _probe(self, replica: Replica) -> None:
        self._probes += 1
        request = replace(self._blank, request_id=f"{self._blank.request_id}-{self._probes}")
        answer = TokenPieces(request, self._tokenizer)
        async for _ in self._asked(replica, request, answer, _ReplicaCall()):
            pass

    async def _asked(
        self, replica: Replica, request: EngineRequest, answer: TokenPieces, call: _ReplicaCall
    ) -> AsyncGenerator[TokenChunk]:
        """What one replica adds to the answer. Raises _ReplicaFailed where another one might do
        better."""
        rest = _behind(request, answer.token_ids)
        if rest is None:
            yield answer.take((), "length")
            return
        async with aclosing(self._pieces(replica, rest)) as pieces:
            while True:
                piece = await call.next(pieces)
                if piece is None:
                    yield answer.take((), "cancelled")
                    return
                if piece.finish is not None and piece.finish not in _REASONS:
                    raise _ReplicaFailed(f"it ended the answer with {piece.finish!r}")
                chunk = answer.take(piece.token_ids, _REASONS.get(piece.finish or ""))
                yield chunk
                if chunk.finish_reason is not None:
                    return

    async def _pieces(self, replica: Replica, request: EngineRequest) -> AsyncGenerator[_Piece]:
        """What comes over the wire. Leaving early closes the connection, and the replica stops."""
        try:
            sent = replica.request(self._client, "POST", GENERATE, json=self._body(request))
            response = await self._client.send(sent, stream=True)
            async with aclosing(response):
                if response.status_code != 200:
                    said = (await response.aread()).decode(errors="replace")[:_SAID]
                    if response.status_code in (400, 404, 422):  # as wrong for every other one
                        raise EngineError(
                            f"expected an engine that serves manifest "
                            f"{self._layout.manifest_digest.hex()} with this project's plug-in, "
                            f"got {response.status_code} from {replica.url}: {said}"
                        )
                    raise _ReplicaFailed(f"{GENERATE} says {response.status_code}: {said}")
                async for event in httpx2.EventSource(response):
                    if event.data == "[DONE]":
                        break
                    piece = _piece(event.data)
                    if piece is not None:
                        yield piece
            raise _ReplicaFailed("its answer has no end")
        except httpx2.HTTPError as error:
            raise _ReplicaFailed(type(error).__name__) from error

    def _body(self, request: EngineRequest) -> dict[str, Any]:
        body = {
            "request_id": request.request_id,
            "token_ids": list(request.prompt_ids),
            "sampling_params": vllm_sampling(request.sampling),
            "stream": True,
        }
        name = request.image_key.hex()
        if name:  # whatever is kept of it is found only under a tenant's own key
            body["cache_salt"] = name
        if request.image is not None:
            part = {"type": "image_url", "url": self._layout.url(request.image)}
            body["content_parts"] = [part | ({"uuid": name} if name else {})]
        return body


def _may_go_on_elsewhere(sampling: Sampling) -> bool:
    """Can another replica finish an answer? Not where a seed says which one it has to be: no other
    one is as far in that seed's random numbers."""
    return sampling.temperature == 0 or sampling.seed is None


def _behind(request: EngineRequest, told: Sequence[int]) -> EngineRequest | None:
    """The question whose answer is the rest of this one's; None if there is no room for more."""
    left = request.sampling.max_tokens - len(told)
    if left <= 0:
        return None
    prompt = [*request.prompt_ids, *told]
    return replace(request, prompt_ids=prompt, sampling=replace(request.sampling, max_tokens=left))


def _piece(data: str) -> _Piece | None:
    """One event of the stream; None for one without a choice."""
    try:
        said = json.loads(data)
        if "error" in said:
            raise _ReplicaFailed(f"it says {json.dumps(said['error'])[:_SAID]}")
        if not said["choices"]:
            return None
        own = said["choices"][0]
        return _Piece([int(token) for token in own["token_ids"]], own["finish_reason"])
    except (ValueError, KeyError, TypeError) as error:
        raise _ReplicaFailed(f"it sent an event that is none ({type(error).__name__})") from error
