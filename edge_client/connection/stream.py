"""One question in progress: sends it, retries it when that is safe, and yields the answer."""

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
from edge_client.connection.question_sender import QuestionSender
from edge_client.connection.route import Route
from edge_client.connection.targets import is_rejection
from edge_client.connection.transport import CANCELLED_BY_CLIENT
from edge_client.input.remembered_images import PendingImage
from protos import convert
from protos.messages import Question

_RETRYABLE = (CloudUnreachable, Overloaded, ManifestMismatch, Unauthenticated)


class AnswerStream:
    """An iterator over the pieces of text as they arrive; then `answer` holds the whole answer.

    As a context manager it cancels the question on exit; `cancel` does so from another thread.

    Args:
        route: selects a target for each attempt.
        config: deadlines and retries.
        question: the message to send.
        image: its image, encoded only if the service needs the payload; the stream records the
            digest under which the service caches it. None for a text-only question.
        traces: where spans are recorded.
    """

    def __init__(
        self,
        route: Route,
        config: EdgeConfig,
        question: Question,
        image: PendingImage | None,
        traces: Traces = NO_TRACES,
    ) -> None:
        self._sender = QuestionSender(question, image)
        self._image = image
        self._route = route
        self._config = config
        self._started_at = time.monotonic()
        self._first_text_at: float | None = None
        self._exchange: Exchange | None = None
        self._cancelled = threading.Event()
        self._chunks: list[TokenChunk] = []
        self._span = self._attempt_span = traces.start("ask")
        self._pieces = self._run_in_span()
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
        """Cancel the question; no effect once the answer ended."""
        self._cancelled.set()
        if self._exchange is not None:
            self._exchange.cancel()
        for span in (self._attempt_span, self._span):
            span.end(CANCELLED)  # no effect on a span that has ended

    def _run_in_span(self) -> Iterator[str]:
        with self._span:
            yield from self._run()

    def _run(self) -> Iterator[str]:
        attempt = 1
        while True:
            # Not counted as an attempt: `connect` itself retries until its timeout.
            with self._span.child("connect"):
                timeout_seconds = min(self._config.connect_seconds, self._remaining_seconds())
                self._route.connect(timeout_seconds, self._cancelled)
            try:
                with self._span.child("attempt", "client") as self._attempt_span:
                    yield from self._attempt(attempt, self._attempt_span)
            except _RETRYABLE as error:
                if self._cancelled.is_set():
                    raise
                has_untried_target = self._route.record_failure(error)
                backoff_seconds = self._backoff_seconds(error, attempt, has_untried_target)
                if not self._should_retry(error, attempt, backoff_seconds, has_untried_target):
                    raise self._route.explain(error, bool(self._chunks)) from error
                if self._cancelled.wait(backoff_seconds):
                    raise CloudUnreachable(CANCELLED_BY_CLIENT) from error
                attempt += 1
            else:
                return

    def _attempt(self, attempt: int, span: Span) -> Iterator[str]:
        """One attempt, from opening the call to the last piece of text."""
        exchange = self._exchange = self._route.open(self._remaining_seconds(), span.metadata)
        if self._cancelled.is_set():  # `cancel` ran before there was an exchange
            exchange.cancel()
        with self._first_token_deadline(exchange) as deadline:
            try:
                self._sender.send_question(exchange, span)
                for response in exchange:
                    if convert.is_payload_needed(response) and not self._sender.question.text_only:
                        self._sender.send_payload(exchange, span)
                        continue
                    chunk = convert.chunk_from_response(response)
                    if self._first_text_at is None:
                        self._first_text_at = time.monotonic()
                        deadline.disarm()
                    self._chunks.append(chunk)
                    if chunk.finish_reason is not None:
                        if self._image is not None:
                            digest = convert.image_digest_from_response(response)
                            self._image.record_cached(digest, self._route.target)
                        # Before the last text: a consumer may stop iterating after it.
                        self._complete(exchange.message_bytes, attempt)
                    if chunk.text:
                        yield chunk.text
            except AlignedVQError as error:
                exchange.cancel()
                raise deadline.explain(error, self._cancelled.is_set()) from error
            except BaseException:  # such as GeneratorExit, when the consumer stops iterating
                exchange.cancel()
                raise
        if self.answer is None:
            raise EngineError(
                "expected a last message with the finish reason, got the end of the stream; ask "
                "again"
            )

    def _complete(self, message_bytes: int, attempts: int) -> None:
        last = self._chunks[-1]
        now = time.monotonic()
        first_text_at = self._first_text_at or now
        assert last.finish_reason is not None
        details = AnswerDetails(
            finish_reason=last.finish_reason,
            usage=last.usage or Usage(0, 0),
            token_ids=tuple(token for chunk in self._chunks for token in chunk.token_ids),
            payload_bytes=self._sender.payload_bytes,
            message_bytes=message_bytes,
            edge=self._sender.edge,
            cloud=last.timings or Timings(),
            first_token_ms=1e3 * (first_text_at - self._started_at),
            total_ms=1e3 * (now - self._started_at),
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

    def _remaining_seconds(self) -> float:
        """Time until the total deadline; DeadlineExceeded once it has passed."""
        remaining_seconds = self._seconds_to_deadline()
        if remaining_seconds <= 0:
            raise DeadlineExceeded(
                f"expected an answer within {self._config.total_seconds:g} s, got none; allow more "
                "time or check the link"
            )
        return remaining_seconds

    def _seconds_to_deadline(self) -> float:
        return self._started_at + self._config.total_seconds - time.monotonic()

    def _should_retry(
        self, error: AlignedVQError, attempt: int, backoff_seconds: float, has_untried_target: bool
    ) -> bool:
        """Whether to retry: only before the first text, and only if it may succeed in time."""
        may_recover = not (isinstance(error, DeadlineExceeded) or is_rejection(error))
        return (
            not self._chunks
            and (attempt < self._config.attempts or self._lost_while_connecting(error))
            and backoff_seconds < self._seconds_to_deadline()
            and (has_untried_target or may_recover)
        )

    def _lost_while_connecting(self, error: AlignedVQError) -> bool:
        """Whether a connection was lost within `connect_seconds`, which is no attempt.

        A lost connection costs the service no work and says nothing about the next one. With
        `attempts` of 1 nothing is retried.
        """
        return (
            isinstance(error, CloudUnreachable)
            and self._config.attempts > 1
            and time.monotonic() < self._started_at + self._config.connect_seconds
        )

    def _backoff_seconds(
        self, error: AlignedVQError, attempt: int, has_untried_target: bool
    ) -> float:
        """Wait before the next attempt: 0 if another target can take it, else exponential with
        jitter, and at least what the service demands. Every target has the same quotas, so another
        one does not help a client that exceeded them."""
        if has_untried_target and not isinstance(error, QuotaExceeded):
            return 0.0
        backoff_seconds = self._config.backoff_seconds * 2.0 ** (attempt - 1)
        demanded_seconds = error.retry_after_seconds if isinstance(error, Overloaded) else None
        # Jitter spreads the retries of clients whose service failed at the same moment.
        return max(backoff_seconds * random.uniform(0.8, 1.2), demanded_seconds or 0.0)

    @contextmanager
    def _first_token_deadline(self, exchange: Exchange) -> Iterator[_FirstTokenDeadline]:
        deadline = _FirstTokenDeadline(exchange, self._config.first_token_seconds)
        try:
            yield deadline
        finally:
            deadline.disarm()


class _FirstTokenDeadline:
    """Cancels an exchange whose first piece of text is late."""

    def __init__(self, exchange: Exchange, seconds: float) -> None:
        self._exchange = exchange
        self._seconds = seconds
        self._expired = False
        # A timer of this process: gRPC has a deadline for a whole call only.
        self._timer = threading.Timer(seconds, self._expire)
        self._timer.daemon = True
        self._timer.start()

    def disarm(self) -> None:
        """Stop the timer: the text arrived, or the attempt ended."""
        self._timer.cancel()

    def explain(self, error: AlignedVQError, cancelled: bool) -> AlignedVQError:
        """The error that names the reason of a cancelled call: the deadline or the client."""
        if self._expired:
            return DeadlineExceeded(
                f"expected the first piece of the answer within {self._seconds:g} s, got none; "
                "allow more time or try when the service is less busy"
            )
        if cancelled:
            return CloudUnreachable(CANCELLED_BY_CLIENT)
        return error

    def _expire(self) -> None:
        self._expired = True  # before cancelling, as `explain` reads it when the call ends
        self._exchange.cancel()
