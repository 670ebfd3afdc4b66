"""Connections of the gRPC port: which of them end so that others have room.

gRPC's core limits how many there are and says nothing of them. Beside it, and off the way of
questions, this looks at the process's own sockets a few times a second. Idle connections stay as
long as there is room; where there is not, those give way that never brought a question, then those
whose last one is longest ago. Used from the event loop only.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic

from aligned_vq.telemetry.log_limit import LIMIT
from cloud_server.access.admission import shared
from cloud_server.access.sockets import Peer, accepted, peer_named, shut
from protos.memory import give_back

LOOK_SECONDS = 0.25
_HURRIED_SECONDS = 0.05
"""Between looks while others press in."""
ABANDONED_SECONDS = 10.0
"""In which the abandoned streams of a connection are counted."""
PRESSED_SECONDS = 10.0
"""After a call had to give way for another."""
FEW = 8
"""Calls that a connection which never brought a question may hold while others need room."""
HANGING_SECONDS = 10.0
"""Give or take a half, so that not all of them come again at once."""
MOST_HANGING = 128
"""Each may take a megabyte; beyond it the first is ended."""
MANY = 50
"""Connections after whose end the memory that they took is given back to the system."""
_FEW_LEFT = 4
"""Where less than this part of the connections is left, the others are gone for good."""
_ROOM = 8
"""An eighth of all connections is kept free, so that a newcomer need not wait for a look."""

_log = logging.getLogger(__name__)


@dataclass
class _Connection:
    """What is known of one of them."""

    since: float
    asked: float | None = None
    """When its last question was admitted."""
    running: int = 0
    """Questions that have a place."""
    arriving: int = 0
    """Calls whose message is on its way."""
    ended: bool = False
    """By us, or soon: what is still read of it is of no use."""
    abandoned: float = 0.0
    counted: float = 0.0

    @property
    def rank(self) -> tuple[bool, float]:
        """The smallest gives way first."""
        if self.ended:
            return False, 0.0
        return self.asked is not None, self.since if self.asked is None else self.asked


class Connections:
    """What happens on each connection, and the end of some.

    Args:
        most: in all.
        share: of one address, 0 to 1.
        most_abandoned: streams of one connection that may end before their question came, in
            `ABANDONED_SECONDS`; after that the connection ends.
    """

    def __init__(self, most: int, share: float, most_abandoned: int) -> None:
        self._most = most
        self._most_each = shared(most, share)
        self._most_abandoned = most_abandoned
        self._known: dict[Peer, _Connection] = {}
        self._live: dict[Peer, int] = {}
        self._hanging: dict[Peer, float] = {}
        """When each is ended, in the order in which they were ignored."""
        self._pressed_until = 0.0
        self._port = 0
        self._looking: asyncio.Task[None] | None = None
        self.open = 0
        """At the last look."""

    def start(self, port: int) -> None:
        """Look after the connections of a local port."""
        try:
            accepted(port)
        except OSError:
            _log.warning("connections are not looked after: this system has no /proc/self/fd")
            return
        self._port = port
        self._looking = asyncio.create_task(self._look())

    async def stop(self) -> None:
        """Look no more."""
        self._port = 0
        if self._looking is not None:
            self._looking.cancel()
            with suppress(asyncio.CancelledError):
                await self._looking

    def ending(self, peer: str) -> bool:
        """Is the connection ended here, or ignored until then? Its calls go on coming for a while,
        and are left without a word."""
        found = self._known.get(named) if (named := peer_named(peer)) else None
        return found is not None and found.ended

    def came(self, peer: str, pressed: bool) -> None:
        """A call begins; `arrived` must follow. While calls have to give way, a connection that
        never brought a question may not hold many: from then on it is ignored."""
        connection = self._at(peer)
        if connection is None:
            return
        connection.arriving += 1
        now = monotonic()
        if pressed:
            self._pressed_until = now + PRESSED_SECONDS
        many = connection.arriving > FEW and connection.asked is None
        if many and not connection.ended and now < self._pressed_until:
            self._leave_hanging(peer_named(peer), connection)

    def arrived(self, peer: str) -> None:
        """Its message is whole, or it ended."""
        if connection := self._at(peer):
            connection.arriving = max(0, connection.arriving - 1)

    def admitted(self, peer: str) -> None:
        """A question from there has a place; `answered` must follow."""
        if connection := self._at(peer):
            connection.asked = monotonic()
            connection.running += 1

    def answered(self, peer: str) -> None:
        """It gave its place back."""
        if connection := self._at(peer):
            connection.asked = monotonic()
            connection.running = max(0, connection.running - 1)

    def abandoned(self, peer: str) -> None:
        """A stream from there ended before its question came. Too many of them end the connection:
        whoever opens and resets streams costs a coroutine for each."""
        connection = self._at(peer)
        if connection is None:
            return
        now = monotonic()
        gone = (now - connection.counted) / ABANDONED_SECONDS * self._most_abandoned
        connection.abandoned = max(0.0, connection.abandoned - gone) + 1
        connection.counted = now
        if connection.abandoned > self._most_abandoned:
            connection.abandoned = 0.0
            self._close(peer, "its calls end before a question came")

    def end(self, *peers: str) -> int:
        """End connections by what gRPC calls their peers; returns how many of them there were."""
        wanted = {peer for text in peers if (peer := peer_named(text))}
        return self._end(wanted)

    def _at(self, text: str) -> _Connection | None:
        """What is known of a peer; None where nobody looks, so nothing would be forgotten."""
        peer = peer_named(text) if self._port else None
        return None if peer is None else self._known.setdefault(peer, _Connection(monotonic()))

    def _leave_hanging(self, peer: Peer | None, connection: _Connection) -> None:
        """Take no more notice of it, and end it later: ended at once, it would come again at once,
        with as many calls. What hangs takes up its streams, so gRPC's core refuses more."""
        assert peer is not None  # it is known by that name
        connection.ended = True
        self._hanging[peer] = monotonic() + HANGING_SECONDS * random.uniform(0.5, 1.5)
        if len(self._hanging) > MOST_HANGING:
            first = next(iter(self._hanging))
            del self._hanging[first]
            self._end({first})
        _log.warning("a connection is ignored: it holds many calls that say nothing")

    def _close(self, peer: str, reason: str) -> None:
        if self.end(peer):
            _log.warning("a connection was closed: %s", reason, extra={LIMIT: f"closed: {reason}"})

    def _end(self, wanted: set[Peer]) -> int:
        if not self._port or not wanted:
            return 0
        if not wanted <= self._live.keys():  # some came after the last look
            self._live = accepted(self._port)
        ended = [peer for peer in wanted & self._live.keys() if shut(self._live.pop(peer), peer)]
        for peer in ended:
            self._known.setdefault(peer, _Connection(monotonic())).ended = True
        return len(ended)

    async def _look(self) -> None:
        pressed, most = False, 0
        while True:
            await asyncio.sleep(_HURRIED_SECONDS if pressed else LOOK_SECONDS)
            try:
                pressed = self._make_room()
            except OSError:
                _log.exception("the connections could not be looked at")
            most = max(most, self.open)
            gone = most - self.open
            # Not while they come and go in an attack, unless nearly all of them went.
            over = monotonic() > self._pressed_until or self.open < most // _FEW_LEFT
            if gone >= MANY and over:
                most = self.open
                await asyncio.to_thread(give_back)

    def _make_room(self) -> bool:
        """Did some have to give way?"""
        now = monotonic()
        over = {peer for peer, ends in self._hanging.items() if now >= ends}
        for peer in over:
            del self._hanging[peer]
        self._end(over)
        live = self._live = accepted(self._port)
        self.open = len(live)
        for peer in self._known.keys() - live.keys():
            del self._known[peer]
            self._hanging.pop(peer, None)
        for peer in live.keys() - self._known.keys():
            self._known[peer] = _Connection(now)
        ended = 0
        for peer in self._too_many(live):
            ended += shut(live[peer], peer)
        if ended:
            words = "%d of %d connections were closed to make room: idle for longest"
            _log.warning(words, ended, len(live))
        return bool(ended)

    def _too_many(self, live: dict[Peer, int]) -> list[Peer]:
        """Those that give way, of an address that has too many and of all."""
        surplus = max(0, len(live) - (self._most - self._most // _ROOM))
        counts = Counter(peer.address for peer in live)
        over = {address: count - self._most_each for address, count in counts.items()}
        if not surplus and max(over.values(), default=0) <= 0:
            return []
        idle = [peer for peer in live if not self._known[peer].running]
        idle.sort(key=lambda peer: self._known[peer].rank)
        given = [peer for peer in idle if _counts_down(over, peer.address)]
        rest = [peer for peer in idle if peer not in set(given)]
        if surplus:
            # Whoever presses in comes again at once: of strangers as many go as room for a rush
            # takes, of those who have asked no more than has to be.
            strangers = sum(self._known[peer].asked is None for peer in rest)
            surplus = max(surplus, min(len(live) - self._most // 2, strangers + len(given)))
        return given + rest[: max(0, surplus - len(given))]


def _counts_down(over: dict[str, int], address: str) -> bool:
    over[address] -= 1
    return over[address] >= 0
