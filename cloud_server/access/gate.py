"""Who calls, and may they come in now? Identity, admission and quotas, apart from answering."""

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
from protos.access.quota import PLACE_SECONDS, Quotas

_log = logging.getLogger(__name__)

CUT_OFF_SECONDS = 5.0
"""At most, for telling those whose answers a shutdown cuts off."""


class Gate:
    """Every call passes here first. Used from the event loop only.

    Args:
        config: limits.
        identities: know who calls; made from the settings if left out.
        connections: told what each of them is used for; likewise.

    Raises:
        ConfigError: a file of credentials cannot be used.
    """

    def __init__(
        self,
        config: CloudConfig,
        identities: Identities | None = None,
        connections: Connections | None = None,
    ) -> None:
        self.identities = identities or Identities(config)
        self.arrivals = Arrivals(config.max_arriving, config.max_share)
        """Calls that have not said what they want."""
        self.connections = connections or Connections(
            config.connection_limit, config.max_share, config.max_abandoned
        )
        self.identities.hang_up = self._hang_up
        self._places = QuestionSlots(config.max_in_flight, config.max_share)
        self._quotas = Quotas(config.questions_per_second, config.burst, config.questions_at_once)
        self._visits: set[AdmittedQuestion] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self.draining = False

    @property
    def in_flight(self) -> int:
        """Questions being answered."""
        return self._places.taken

    def identity(self, context: Context) -> str:
        """Who calls; raises as `Identities.identify` does."""
        return self.identities.identify(context).name

    def _hang_up(self, peers: Iterable[str]) -> None:
        self.connections.end(*peers)

    def arrive(self, peer: str = "") -> AdmittedQuestion:
        """Admit a question that `peer`, as gRPC names it, begins to send; `leave` must follow."""
        visit = AdmittedQuestion(self, peer)
        self._visits.add(visit)
        self._empty.clear()
        return visit

    async def drain(self, seconds: float) -> None:
        """Refuse new questions and wait, at most `seconds`, for those that came before."""
        self.draining = True
        try:
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        except TimeoutError:
            _log.warning("%d questions are cut off after %g s", len(self._visits), seconds)
            for visit in self._visits:
                visit.end()
            with suppress(TimeoutError):
                async with asyncio.timeout(CUT_OFF_SECONDS):
                    await self._empty.wait()

    def _enter(self, visit: AdmittedQuestion, context: Context) -> Caller:
        if self.draining:
            raise CloudUnreachable(
                "the service is shutting down; ask again, another replica serves"
            )
        caller = self.identities.identify(context)  # first: strangers take nobody's place
        named = caller.name != ANONYMOUS
        visit.account = caller.name if named else f"{ANONYMOUS} {host_of(visit.peer)}"
        self._places.check(visit.account)
        self._quotas.check(caller.name, caller.limits)
        self.identities.began(visit, caller, visit.end)
        pressed = self.arrivals.enter(visit, visit.account)
        visit.arriving = True
        self.connections.came(visit.peer, pressed)
        return caller

    def _arrived(self, visit: AdmittedQuestion) -> None:
        if visit.arriving:
            visit.arriving = False
            self.arrivals.leave(visit)
            self.connections.arrived(visit.peer)

    def _admit(self, visit: AdmittedQuestion, caller: Caller) -> None:
        self._arrived(visit)
        self._places.check(visit.account)
        self._quotas.enter(caller.name, caller.limits)
        self._places.take(visit.account)
        self.connections.admitted(visit.peer)

    def _left(self, visit: AdmittedQuestion) -> None:
        self._arrived(visit)
        self.identities.ended(visit)
        if visit.admitted and visit.identity is not None:
            self._places.give_back(visit.account)
            self._quotas.leave(visit.identity)
            self.connections.answered(visit.peer)
        elif not visit.refused:
            self.connections.abandoned(visit.peer)
        self._visits.discard(visit)
        if not self._visits:
            self._empty.set()


class AdmittedQuestion:
    """One question, from its arrival until it was answered or refused."""

    def __init__(self, gate: Gate, peer: str) -> None:
        self._gate = gate
        self.peer = peer
        """What gRPC calls the other end of its connection."""
        self.identity: str | None = None
        """Whose question it is; None until that is known."""
        self.account = ""
        """Whose share of the places it counts toward: an identity's, or that of an address among
        the anonymous."""
        self.taken_back: AlignedVQError | None = None
        """Why its time was ended before it was over, where its caller is to know that."""
        self.arriving = self.admitted = self.refused = self.gave_way = False
        self._caller: Caller | None = None
        self._limit: asyncio.Timeout | None = None

    def enter(self, context: Context) -> str:
        """The identity of the caller, whose question is still on its way.

        Raises:
            CloudUnreachable: the service is shutting down.
            Unauthenticated: see `Identities.identify`.
            Overloaded: all places are taken, or (QuotaExceeded) all of this identity.
        """
        with self._noting_refusal():
            self._caller = self._gate._enter(self, context)
        self.identity = self._caller.name
        return self.identity

    def begun(self) -> None:
        """Its first message is here."""
        self._gate.arrivals.begun(self)

    def admit(self, context: Context) -> str:
        """The identity of the caller, who has a place from now on: all of the question is here.

        Raises:
            CloudUnreachable: as `enter` says, which comes before where it did not.
            Unauthenticated: likewise.
            Overloaded: all places are taken, or (QuotaExceeded) all of this identity; or others
                needed the room while it arrived.
        """
        if self._caller is None:
            self.enter(context)
        assert self._caller is not None  # it has entered
        if self.gave_way:
            raise self.late()
        with self._noting_refusal():
            self._gate._admit(self, self._caller)
        self.admitted = True
        return self._caller.name

    def refuse(self, error: AlignedVQError) -> None:
        """It ends with an error. A question that was read and cannot be answered is no fault of its
        connection, over which a gateway brings those of many; it counts toward its identity's
        rate."""
        read = not isinstance(error, Overloaded | CloudUnreachable | DeadlineExceeded)
        if self._caller is not None and not self.admitted and read:
            self._gate._quotas.spend(self._caller.name, self._caller.limits)
        if isinstance(error, InvalidInput | ManifestMismatch):
            self.refused = True

    def leave(self) -> None:
        """The question ended, in whatever way."""
        self._gate._left(self)

    def time(self, seconds: float) -> asyncio.Timeout:
        """Within it the question is answered; raises TimeoutError when the time or, as the service
        shuts down, the drain is over; or it gave way."""
        self._limit = asyncio.timeout(seconds)
        return self._limit

    def end(self, why: AlignedVQError | None = None) -> None:
        """Its time is over now."""
        self.taken_back = self.taken_back or why
        if self._limit is not None:
            with suppress(RuntimeError):  # it is over, and only the last words are on their way
                self._limit.reschedule(asyncio.get_running_loop().time())

    def give_way(self) -> None:
        """Others need the room before all of it came."""
        self.gave_way = True
        self.end()

    @property
    def ended_by(self) -> AlignedVQError | None:
        """Why it was ended before its time was over; None if it was not."""
        return self.taken_back or (self.late() if self.gave_way else None)

    def late(self) -> Overloaded:
        """What to tell a question that gave way."""
        return Overloaded(
            "expected the whole question soon, as many are on their way, got a part of it; "
            "ask again",
            PLACE_SECONDS,
        )

    @contextmanager
    def _noting_refusal(self) -> Iterator[None]:
        """A question that finds no place is no fault of its connection."""
        try:
            yield
        except (CloudUnreachable, Overloaded):
            self.refused = True
            raise
