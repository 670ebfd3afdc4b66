"""Admits questions: identity, arrival limits, quotas and slots, independent of answering."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from aligned_vq.errors import (
    AlignedVQError,
    CloudUnreachable,
    DeadlineExceeded,
    InvalidInput,
    ManifestMismatch,
    Overloaded,
)
from cloud_server.access.admission import Arrivals, QuestionSlots
from cloud_server.access.connections import Connections
from cloud_server.access.identity import ANONYMOUS, Context, Identities
from cloud_server.access.peers import Caller
from cloud_server.access.sockets import host_of
from cloud_server.config import CloudConfig
from protos.access.quota import Quotas

_log = logging.getLogger(__name__)

CANCEL_SECONDS = 5.0
"""Longest wait for the error statuses of answers that a shutdown cancels."""


class Gate:
    """Every question passes here first. Used from the event loop only.

    Args:
        config: limits.
        identities: authenticates callers; None builds it from the settings.
        connections: is notified of what each connection is used for; likewise.

    Raises:
        ConfigError: a file of credentials is unusable.
    """

    def __init__(
        self,
        config: CloudConfig,
        identities: Identities | None = None,
        connections: Connections | None = None,
    ) -> None:
        self.identities = identities or Identities(config)
        self.arrivals = Arrivals(config.max_arriving, config.max_share)
        """Calls that have not arrived completely."""
        self.connections = connections or Connections(
            config.connection_limit, config.max_share, config.max_abandoned
        )
        self.identities.close_connections = self._close_connections
        self._slots = QuestionSlots(config.max_in_flight, config.max_share)
        self._quotas = Quotas(config.questions_per_second, config.burst, config.questions_at_once)
        self._admissions: set[QuestionAdmission] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self.draining = False

    @property
    def in_flight(self) -> int:
        """Questions being answered."""
        return self._slots.used

    def identity(self, context: Context) -> str:
        """The caller's identity; raises as `Identities.identify`."""
        return self.identities.identify(context).name

    def _close_connections(self, peers: Iterable[str]) -> None:
        self.connections.close(*peers)

    def open(self, peer: str = "") -> QuestionAdmission:
        """The admission of a question that `peer`, as gRPC names it, starts to send. The caller
        must `release` it."""
        admission = QuestionAdmission(self, peer)
        self._admissions.add(admission)
        self._empty.clear()
        return admission

    async def drain(self, seconds: float) -> None:
        """Refuse new questions and wait, at most `seconds`, for the present ones; then cancel
        them."""
        self.draining = True
        try:
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        except TimeoutError:
            _log.warning("cancelling %d questions after %g s", len(self._admissions), seconds)
            for admission in self._admissions:
                # Only reschedules a timeout, so the set does not change during the loop.
                admission.cancel()
            with suppress(TimeoutError):
                async with asyncio.timeout(CANCEL_SECONDS):
                    await self._empty.wait()

    def _authorize(self, admission: QuestionAdmission, context: Context) -> Caller:
        if self.draining:
            raise CloudUnreachable(
                "the service is shutting down; ask again, another replica serves"
            )
        # Identity first: an unauthenticated caller must not take anyone's room.
        caller = self.identities.identify(context)
        # Anonymous callers are told apart by address, or one could take the share of all.
        named = caller.name != ANONYMOUS
        admission.account = caller.name if named else f"{ANONYMOUS} {host_of(admission.peer)}"
        # Both limits without counting: a question beyond them need not be sent at all.
        self._slots.check(admission.account)
        self._quotas.check(caller.name, caller.limits)
        self.identities.add_call(admission, caller, admission.cancel)
        evicted_another = self.arrivals.enter(admission, admission.account)
        admission.arriving = True
        self.connections.call_started(admission.peer, evicted_another)
        return caller

    def _end_arrival(self, admission: QuestionAdmission) -> None:
        if admission.arriving:
            admission.arriving = False
            self.arrivals.leave(admission)
            self.connections.call_ended(admission.peer)

    def _admit(self, admission: QuestionAdmission, caller: Caller) -> None:
        self._end_arrival(admission)
        # Checked again: others may have taken the slots while this question was arriving.
        self._slots.check(admission.account)
        self._quotas.enter(caller.name, caller.limits)
        # Taken last: it cannot fail, so that a refusal leaves nothing counted.
        self._slots.take(admission.account)
        self.connections.question_admitted(admission.peer)

    def _release(self, admission: QuestionAdmission) -> None:
        self._end_arrival(admission)
        self.identities.remove_call(admission)
        if admission.admitted and admission.identity is not None:
            self._slots.release(admission.account)
            self._quotas.leave(admission.identity)
            self.connections.question_ended(admission.peer)
        elif not admission.refused:
            self.connections.call_abandoned(admission.peer)
        self._admissions.discard(admission)
        # Lets `drain` return as soon as the last question has ended.
        if not self._admissions:
            self._empty.set()


class QuestionAdmission:
    """The admission of one question, from its first byte until it was answered or refused."""

    def __init__(self, gate: Gate, peer: str) -> None:
        self._gate = gate
        self.peer = peer
        """gRPC's name for the other end of the connection."""
        self.identity: str | None = None
        """The caller's identity; None until it is authenticated."""
        self.account = ""
        """Whose share of the slots it counts toward: an identity, or the address of an anonymous
        caller."""
        self.cancel_reason: AlignedVQError | None = None
        """Why it was cancelled early, if the caller is to learn that."""
        self.arriving = self.admitted = self.refused = self.evicted = False
        self._caller: Caller | None = None
        self._timeout: asyncio.Timeout | None = None

    def authorize(self, context: Context) -> str:
        """Identify the caller of a question that is still arriving; returns the identity.

        Raises:
            CloudUnreachable: the service is shutting down.
            Unauthenticated: as `Identities.identify`.
            Overloaded: no slot is free, or (QuotaExceeded) none for this identity.
        """
        with self._recording_refusal():
            self._caller = self._gate._authorize(self, context)
        self.identity = self._caller.name
        return self.identity

    def message_received(self) -> None:
        """The first message has arrived."""
        self._gate.arrivals.message_received(self)

    def admit(self, context: Context) -> str:
        """Take a slot for a question that has arrived; returns the caller's identity. Calls
        `authorize` first if that has not been done.

        Raises:
            CloudUnreachable, Unauthenticated: as `authorize`.
            Overloaded: no slot is free, or (QuotaExceeded) none for this identity; or the call was
                evicted while it was arriving.
        """
        if self._caller is None:
            self.authorize(context)
        assert self._caller is not None  # `authorize` sets it
        if self.evicted:
            raise self.eviction_error()
        with self._recording_refusal():
            self._gate._admit(self, self._caller)
        self.admitted = True
        return self._caller.name

    def record_error(self, error: AlignedVQError) -> None:
        """The question ends with this error.

        A question that arrived but is invalid counts toward the rate of its identity. It does not
        count as abandoned by its connection, over which a gateway may bring those of many users.
        """
        arrived = not isinstance(error, Overloaded | CloudUnreachable | DeadlineExceeded)
        if self._caller is not None and not self.admitted and arrived:
            self._gate._quotas.spend(self._caller.name, self._caller.limits)
        if isinstance(error, InvalidInput | ManifestMismatch):
            self.refused = True

    def release(self) -> None:
        """The question has ended, in whatever way."""
        self._gate._release(self)

    def time_limit(self, seconds: float) -> asyncio.Timeout:
        """A context manager around answering the question. It raises TimeoutError after `seconds`,
        or early if the question is cancelled or evicted."""
        self._timeout = asyncio.timeout(seconds)
        return self._timeout

    def cancel(self, reason: AlignedVQError | None = None) -> None:
        """End the question's time limit now."""
        # The first reason is the one that ended the question.
        self.cancel_reason = self.cancel_reason or reason
        if self._timeout is not None:
            # RuntimeError: the time limit has ended, and only the last bytes are being sent.
            with suppress(RuntimeError):
                self._timeout.reschedule(asyncio.get_running_loop().time())

    def evict(self) -> None:
        """Cancel the question, which is arriving, to make room for others."""
        self.evicted = True
        self.cancel()

    @property
    def end_reason(self) -> AlignedVQError | None:
        """Why the question was ended before its time limit; None if it was not."""
        return self.cancel_reason or (self.eviction_error() if self.evicted else None)

    def eviction_error(self) -> Overloaded:
        """The error for an evicted question."""
        return Overloaded(
            "expected the whole question soon, as many others are arriving, got a part of it; "
            "ask again"
        )

    @contextmanager
    def _recording_refusal(self) -> Iterator[None]:
        """A question without a free slot does not count as abandoned by its connection."""
        try:
            yield
        except (CloudUnreachable, Overloaded):
            self.refused = True
            raise
