"""One question in progress: sends it, retries where that is safe, yields the text."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from aligned_vq.answers import Timings, TokenChunk, Usage
from aligned_vq.errors import (
    AlignedVQError,
    CloudUnreachable,
    DeadlineExceeded,
    EngineError,
    ManifestMismatch,
    Overloaded,
    QuotaExceeded,
    Unauthenticated,
)
from aligned_vq.telemetry.spans import CANCELLED, NO_TRACES, Span, Traces
from edge_client.answer import Answer, AnswerDetails
from edge_client.config import EdgeConfig
from edge_client.connection.exchange import Exchange
from edge_client.connection.outgoing import Outgoing
from edge_client.connection.route import Route
from edge_client.connection.targets import is_refusal
from edge_client.connection.transport import CANCELLED_HERE
from edge_client.input.remembered_images import PendingImage
from protos import convert
from protos.messages import Question

_TRY_AGAIN = (CloudUnreachable, Overloaded, ManifestMismatch, Unauthenticated)


class AnswerStream:
    """Iterate for the text as it arrives; `answer` holds the whole once the iteration ended.

    A context manager: leaving it early hangs up. `cancel` does so from another thread.

    Args:
        route: to the service, or to one after the other.
        config: deadlines and retries.
        question: sent to the service.
        image: the question's; encoded only if the service needs the payload, and told the name
            that the service has for it. None for a question about text alone.
        traces: record where the time went.
    """

    def __init__(
        self,
        route: Route,
        config: EdgeConfig,
        question: Question,
        image: PendingImage | None,
        traces: Traces = NO_TRACES,
    ) -> None:
        self._outgoing = Outgoing(question, image)
        self._image = image
        self._route = route
        self._config = config
        self._started = time.monotonic()
        self._first_text: float | None = None
        self._exchange: Exchange | None = None
        self._cancelled = threading.Event()
        self._chunks: list[TokenChunk] = []
        self._span = self._attempted = traces.start("ask")
        self._pieces = self._traced()
        self.answer: Answer | None = None

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        return next(self._pieces)

    def __enter__(self) -> AnswerStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

    def cancel(self) -> None:
        """Hang up; harmless once the answer ended."""
        self._cancelled.set()
        if self._exchange is not None:
            self._exchange.cancel()
        for span in (self._attempted, self._span):
            span.end(CANCELLED)  # harmless where it has ended

    def _traced(self) -> Iterator[str]:
        with self._span:
            yield from self._run()

    def _run(self) -> Iterator[str]:
        attempt = 1
        while True:
            # Outside the retries: within its time, connecting tries again by itself.
            with self._span.child("connect"):
                seconds = min(self._config.connect_seconds, self._left())
                self._route.connect(seconds, self._cancelled)
            try:
                with self._span.child("attempt", "client") as self._attempted:
                    yield from self._attempt(attempt, self._attempted)
            except _TRY_AGAIN as error:
                if self._cancelled.is_set():
                    raise
                elsewhere = self._route.failed(error)
                pause = self._pause(error, attempt, elsewhere)
                if not self._worth_retrying(error, attempt, pause, elsewhere):
                    raise self._route.explain(error, bool(self._chunks)) from error
                if self._cancelled.wait(pause):
                    raise CloudUnreachable(CANCELLED_HERE) from error
                attempt += 1
            else:
                return

    def _attempt(self, attempt: int, span: Span) -> Iterator[str]:
        """The question asked once, from opening the stream to the last piece of text."""
        exchange = self._exchange = self._route.open(self._left(), span.metadata)
        if self._cancelled.is_set():  # just before there was something to cancel
            exchange.cancel()
        with self._first_token_deadline(exchange) as late:
            try:
                self._outgoing.begin(exchange, span)
                for response in exchange:
                    if (
                        convert.is_payload_needed(response)
                        and not self._outgoing.question.text_only
                    ):
                        self._outgoing.add_payload(exchange, span)
                        continue
                    chunk = convert.chunk_from_response(response)
                    if self._first_text is None:
                        self._first_text = time.monotonic()
                        late.disarm()
                    self._chunks.append(chunk)
                    if chunk.finish_reason is not None:
                        if self._image is not None:
                            held_as = convert.image_digest_from_response(response)
                            self._image.held(held_as, self._route.target)
                        self._complete(exchange.message_bytes, attempt)
                    if chunk.text:
                        yield chunk.text
            except AlignedVQError as error:
                exchange.cancel()
                raise late.explain(error, self._cancelled.is_set()) from error
            except BaseException:
                exchange.cancel()
                raise
        if self.answer is None:
            raise EngineError(
                "expected the service to end the answer, but the stream just stopped; ask again"
            )

    def _complete(self, message_bytes: int, attempts: int) -> None:
        last = self._chunks[-1]
        now = time.monotonic()
        first = self._first_text or now
        assert last.finish_reason is not None
        details = AnswerDetails(
            finish_reason=last.finish_reason,
            usage=last.usage or Usage(0, 0),
            token_ids=tuple(token for chunk in self._chunks for token in chunk.token_ids),
            payload_bytes=self._outgoing.payload_bytes,
            message_bytes=message_bytes,
            edge=self._outgoing.edge,
            cloud=last.timings or Timings(),
            first_token_ms=1e3 * (first - self._started),
            total_ms=1e3 * (now - self._started),
            attempts=attempts,
            target=self._route.target,
        )
        self.answer = Answer("".join(chunk.text for chunk in self._chunks), details)
        self._span.note(
            {
                "outcome": "answered",
                "attempts": attempts,
                "message_bytes": message_bytes,
                "prompt_tokens": details.usage.prompt_tokens,
                "completion_tokens": details.usage.completion_tokens,
                "first_token_ms": details.first_token_ms,
            }
        )

    def _left(self) -> float:
        left = self._ends_in()
        if left <= 0:
            raise DeadlineExceeded(
                f"expected an answer within {self._config.total_seconds:g} s, got none; allow more "
                "time or check the link"
            )
        return left

    def _ends_in(self) -> float:
        return self._started + self._config.total_seconds - time.monotonic()

    def _worth_retrying(
        self, error: AlignedVQError, attempt: int, pause: float, elsewhere: bool
    ) -> bool:
        """Only before the first text, and only what another try or another target can mend."""
        return (
            not self._chunks
            and (attempt < self._config.attempts or self._lost_lately(error))
            and pause < self._ends_in()
            and (elsewhere or not (isinstance(error, DeadlineExceeded) or is_refusal(error)))
        )

    def _lost_lately(self, error: AlignedVQError) -> bool:
        """A connection that ends costs no work, and tells nothing of the next one; so as long as
        connecting may take, further ones are tried, unless nothing is to be tried again."""
        return (
            isinstance(error, CloudUnreachable)
            and self._config.attempts > 1
            and time.monotonic() < self._started + self._config.connect_seconds
        )

    def _pause(self, error: AlignedVQError, attempt: int, elsewhere: bool) -> float:
        """None before another target; else our own backoff, or as long as the service asks if that
        is longer. What this client may ask is the same everywhere."""
        if elsewhere and not isinstance(error, QuotaExceeded):
            return 0.0
        own = self._config.backoff_seconds * 2.0 ** (attempt - 1) * random.uniform(0.8, 1.2)
        asked = error.retry_after_seconds if isinstance(error, Overloaded) else None
        return max(own, asked or 0.0)

    @contextmanager
    def _first_token_deadline(self, exchange: Exchange) -> Iterator[_Deadline]:
        deadline = _Deadline(exchange, self._config.first_token_seconds)
        try:
            yield deadline
        finally:
            deadline.disarm()


class _Deadline:
    """Hangs up when the first piece of text is late."""

    def __init__(self, exchange: Exchange, seconds: float) -> None:
        self._exchange = exchange
        self._seconds = seconds
        self._expired = False
        self._timer = threading.Timer(seconds, self._expire)
        self._timer.daemon = True
        self._timer.start()

    def disarm(self) -> None:
        """The text came, or the attempt ended."""
        self._timer.cancel()

    def explain(self, error: AlignedVQError, cancelled: bool) -> AlignedVQError:
        """The error that says who hung up."""
        if self._expired:
            return DeadlineExceeded(
                f"expected the first piece of the answer within {self._seconds:g} s, got none; "
                "allow more time or try when the service is less busy"
            )
        if cancelled:
            return CloudUnreachable(CANCELLED_HERE)
        return error

    def _expire(self) -> None:
        self._expired = True
        self._exchange.cancel()
