"""Several services that answer alike, and which of them are asked now.

Free of torch, as the transport is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence

from aligned_vq.errors import (
    AlignedVQError,
    CloudUnreachable,
    ConfigError,
    DeadlineExceeded,
    ManifestMismatch,
    Unauthenticated,
)
from aligned_vq.telemetry.spans import Metadata
from edge_client.config import EdgeConfig
from edge_client.connection.circuit_breaker import Breaker
from edge_client.connection.transport import Transport
from protos import convert
from protos.alignedvq.v1 import inference_pb2 as pb

_LOOK_SECONDS = 2.0
_TICK_SECONDS = 0.25


def split_targets(target: str | Sequence[str]) -> list[str]:
    """Addresses as a list; a string may name several, with commas between them.

    Raises:
        ConfigError: there is none, or one twice.
    """
    parts = target.split(",") if isinstance(target, str) else target
    found = [part.strip() for part in parts if part.strip()]
    if not found or len(set(found)) < len(found):
        raise ConfigError(
            f"expected one or more different addresses, got {target!r}; write host:port, or "
            "host:port,host:port for several"
        )
    return found


class Target:
    """One service, and what is known of it."""

    def __init__(self, transport: Transport, config: EdgeConfig) -> None:
        self.transport = transport
        self.name = transport.target
        self.breaker = Breaker(config.failures, config.pause_seconds)
        self.asked: set[TargetCall] = set()
        """Questions in flight."""
        self.turn = 0
        """Grows with every question that is asked anywhere: the smallest waits longest."""
        self.looking: threading.Thread | None = None

    @property
    def in_flight(self) -> int:
        """How many questions are."""
        return len(self.asked)

    @property
    def takes_questions(self) -> bool:
        """Is it not left alone? On trial it takes one at a time."""
        state = self.breaker.state
        return state == "closed" or (state == "trial" and not self.in_flight)

    def trouble(self) -> str:
        """Asks the target how it is: what is the matter, or nothing."""
        try:
            self.transport.check_health(_LOOK_SECONDS)
        except CloudUnreachable as error:
            return str(error)
        return ""


class Targets:
    """Services that a question may go to.

    A thread for each asks it whether it is well again while it is left alone, and whether it still
    is when it has been silent for long: if not, it is left alone, and its silent questions go to
    another.

    Args:
        transports: one for each target.
        config: when a target is left alone, and when it has been silent for long.
    """

    def __init__(self, transports: Sequence[Transport], config: EdgeConfig) -> None:
        self.all = [Target(transport, config) for transport in transports]
        self._silence_seconds = config.silence_seconds
        self._turns = 0
        self._changed = threading.Condition()
        self.closed = False

    def able(self) -> list[Target]:
        """Those that take questions, the fewest in flight first, in turn where that is the same."""
        with self._changed:
            found = [target for target in self.all if target.takes_questions]
            return sorted(found, key=lambda target: (target.in_flight, target.turn))

    def failed(self, target: Target, mark: int, error: AlignedVQError) -> None:
        """A question that began at the breaker's `mark` failed at the target."""
        with self._changed:
            lone = len(self.all) == 1
            if lone and (is_refusal(error) or isinstance(error, DeadlineExceeded)):
                return  # wrong or slow, and nobody else is better: it may say so every time
            if is_refusal(error):
                target.breaker.refused(str(error))
            elif isinstance(error, CloudUnreachable):
                target.breaker.failed(mark, str(error))
            self._wake(target)

    def enter(self, asked: TargetCall) -> None:
        """A question is in flight."""
        with self._changed:
            self._turns += 1
            asked.target.turn = self._turns
            asked.target.asked.add(asked)
            self._wake(asked.target)

    def leave(self, asked: TargetCall) -> None:
        """A question is not in flight any more; harmless if it was not."""
        with self._changed:
            asked.target.asked.discard(asked)

    def begun(self, asked: TargetCall) -> None:
        """The answer began."""
        with self._changed:
            asked.target.breaker.answered()

    def close(self) -> None:
        """Hang up."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()
        for target in self.all:
            target.transport.close()
        for target in self.all:
            if target.looking is not None:
                target.looking.join(2 * _LOOK_SECONDS)  # its call ended with its channel

    def _wake(self, target: Target) -> None:
        if target.looking is None and not self.closed and self._doubtful(target):
            target.looking = threading.Thread(
                target=self._look, args=(target,), name="targets", daemon=True
            )
            target.looking.start()
        self._changed.notify_all()

    def _doubtful(self, target: Target) -> bool:
        """Is there something to look after?"""
        several = len(self.all) > 1
        return (several and bool(target.asked)) or target.breaker.state == "open"

    def _look(self, target: Target) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self.closed or self._doubtful(target))
                if self.closed:
                    return
                wanted = target.breaker.wants_look() or self._silent(target)
            if wanted:
                self._tell(target, target.trouble())
            with self._changed:
                self._changed.wait_for(lambda: self.closed, _TICK_SECONDS)

    def _tell(self, target: Target, trouble: str) -> None:
        with self._changed:
            silent = self._silent(target)
            if silent or target.breaker.state == "open":
                target.breaker.looked(trouble)
        for asked in silent:
            asked.looked(trouble)

    def _silent(self, target: Target) -> list[TargetCall]:
        """Its questions that wait for long while there is another target to ask."""
        if not any(other.takes_questions for other in self.all if other is not target):
            return []
        long_ago = time.monotonic() - self._silence_seconds
        return [asked for asked in target.asked if not asked.begun and asked.heard_at < long_ago]


class TargetCall:
    """An `Exchange` that counts among those in flight at its target; see `Transport.open`."""

    def __init__(
        self, targets: Targets, target: Target, timeout_seconds: float, metadata: Metadata
    ) -> None:
        self.target = target
        self.heard_at = time.monotonic()
        self.begun = False
        """Has a piece of the answer come? Then nobody else can go on with it."""
        self._targets = targets
        self._lost = ""
        targets.enter(self)  # first, so that the next question goes elsewhere
        try:
            self._exchange = target.transport.open(timeout_seconds, metadata)
        except BaseException:
            targets.leave(self)
            raise

    @property
    def message_bytes(self) -> int:
        """See `Exchange.message_bytes`."""
        return self._exchange.message_bytes

    def send(self, request: pb.AskRequest) -> None:
        """See `Exchange.send`."""
        self._exchange.send(request)

    def finish(self) -> None:
        """See `Exchange.finish`."""
        self._exchange.finish()

    def __iter__(self) -> Iterator[pb.AskResponse]:
        """See `Exchange.__iter__`."""
        try:
            for response in self._exchange:
                self.heard_at = time.monotonic()
                if not self.begun and not convert.is_payload_needed(response):
                    self.begun = True
                    self._targets.begun(self)
                yield response
        except CloudUnreachable as error:
            if self._lost:
                raise CloudUnreachable(self._lost) from error
            raise
        finally:
            self._targets.leave(self)

    def cancel(self) -> None:
        """See `Exchange.cancel`."""
        self._exchange.cancel()
        self._targets.leave(self)

    def looked(self, trouble: str) -> None:
        """Hang up if a look found that the target is not well any more."""
        if not trouble:
            self.heard_at = time.monotonic()
        elif not self.begun:
            self._lost = trouble
            self.cancel()


def is_refusal(error: AlignedVQError) -> bool:
    """Is it the target that is wrong, and not the moment?"""
    another = isinstance(error, CloudUnreachable) and error.another_service
    return another or isinstance(error, ManifestMismatch | Unauthenticated)
