"""Closes connections of the gRPC port so that others have room.

gRPC's core limits how many connections there are but does not report them, so this module scans the
process's sockets a few times a second, independently of the questions. Idle connections stay open
while there is room. Beyond the limit, connections that never carried a question are closed first,
then those whose last question was longest ago. Used from the event loop only.
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
from cloud_server.access.admission import caller_share
from cloud_server.access.sockets import Peer, accepted_sockets, parse_peer, shut_down
from protos.memory import release_free_memory

SCAN_SECONDS = 0.25
_PRESSURE_SCAN_SECONDS = 0.05
"""Between scans while connections have to be closed."""
ABANDONED_WINDOW_SECONDS = 10.0
"""Window of the limit on abandoned calls of a connection."""
PRESSURE_SECONDS = 10.0
"""How long calls count as contending for room after one was evicted."""
MAX_UNPROVEN_CALLS = 8
"""Arriving calls that a connection without any question may hold while calls contend for room."""
QUARANTINE_SECONDS = 10.0
"""Mean; each is drawn within half of it, so that connections do not return all at once."""
MAX_QUARANTINED = 128
"""Each may take a megabyte; beyond it the oldest is closed."""
TRIM_AFTER_CLOSED = 50
"""Closed connections after which freed memory is returned to the system."""
_TRIM_REMAINING_DIVISOR = 4
"""Memory is trimmed even under pressure once fewer than 1/4 of the connections remain."""
_HEADROOM_DIVISOR = 8
"""1/8 of the limit is kept free, so that a new client need not wait for a scan."""

_log = logging.getLogger(__name__)


@dataclass
class _Connection:
    """The state of one connection; times are those of `monotonic`."""

    opened_at: float
    last_question_at: float | None = None
    """When a question was last admitted or ended; None if none ever was."""
    running: int = 0
    """Questions that hold a slot."""
    arriving: int = 0
    """Calls whose message has not arrived completely."""
    closing: bool = False
    """Closed here, or about to be: its further calls are ignored."""
    abandoned: float = 0.0
    """Abandoned calls, decayed linearly up to `abandoned_at`."""
    abandoned_at: float = 0.0

    @property
    def eviction_rank(self) -> tuple[bool, float]:
        """Sort key: the smallest is closed first."""
        # Nobody is served on it any more.
        if self.closing:
            return False, 0.0
        if self.last_question_at is None:
            return False, self.opened_at
        return True, self.last_question_at


class Connections:
    """Tracks what each connection is used for, and closes some.

    Args:
        limit: most connections in all.
        share: largest share of one address, 0 to 1.
        max_abandoned: calls of one connection that may end before their question arrived, within
            `ABANDONED_WINDOW_SECONDS`; one more closes the connection.
    """

    def __init__(self, limit: int, share: float, max_abandoned: int) -> None:
        self._limit = limit
        self._address_limit = caller_share(limit, share)
        self._max_abandoned = max_abandoned
        self._connections: dict[Peer, _Connection] = {}
        self._sockets: dict[Peer, int] = {}
        self._quarantined: dict[Peer, float] = {}
        """When to close each, oldest first."""
        self._pressure_until = 0.0
        self._port = 0
        self._scanner: asyncio.Task[None] | None = None
        self.open = 0
        """Connections at the last scan."""

    def start(self, port: int) -> None:
        """Start to scan the connections of a local port."""
        try:
            accepted_sockets(port)
        except OSError:
            _log.warning("idle connections are not closed: this system has no /proc/self/fd")
            return
        self._port = port
        self._scanner = asyncio.create_task(self._scan_repeatedly())

    async def stop(self) -> None:
        """Stop scanning."""
        self._port = 0
        if self._scanner is not None:
            self._scanner.cancel()
            with suppress(asyncio.CancelledError):
                await self._scanner

    def is_closing(self, peer: str) -> bool:
        """Whether the connection was closed here, or is quarantined. Calls may arrive on it for a
        while; they are dropped without a response."""
        parsed = parse_peer(peer)
        connection = self._connections.get(parsed) if parsed else None
        return connection is not None and connection.closing

    def call_started(self, peer: str, evicted_another: bool) -> None:
        """A call started; `call_ended` must follow.

        While calls contend for room, a connection that never carried a question and holds many
        calls is quarantined.
        """
        connection = self._connection(peer)
        if connection is None:
            return
        connection.arriving += 1
        now = monotonic()
        if evicted_another:
            self._pressure_until = now + PRESSURE_SECONDS
        unproven = connection.last_question_at is None and connection.arriving > MAX_UNPROVEN_CALLS
        if unproven and not connection.closing and now < self._pressure_until:
            self._quarantine(parse_peer(peer), connection)

    def call_ended(self, peer: str) -> None:
        """A call's message has arrived completely, or the call ended."""
        if connection := self._connection(peer):
            # Not below 0: a scan may have replaced the state that counted the start.
            connection.arriving = max(0, connection.arriving - 1)

    def question_admitted(self, peer: str) -> None:
        """A question took a slot; `question_ended` must follow."""
        if connection := self._connection(peer):
            connection.last_question_at = monotonic()
            connection.running += 1

    def question_ended(self, peer: str) -> None:
        """A question released its slot."""
        if connection := self._connection(peer):
            connection.last_question_at = monotonic()
            connection.running = max(0, connection.running - 1)

    def call_abandoned(self, peer: str) -> None:
        """A call ended before its question arrived. Too many of them close the connection: opening
        and resetting streams is cheap for the client and costs a coroutine each here."""
        connection = self._connection(peer)
        if connection is None:
            return
        now = monotonic()
        elapsed = now - connection.abandoned_at
        # A leaky bucket: the allowance of one window drains in the time of one window.
        decay = elapsed / ABANDONED_WINDOW_SECONDS * self._max_abandoned
        connection.abandoned = max(0.0, connection.abandoned - decay) + 1
        connection.abandoned_at = now
        if connection.abandoned > self._max_abandoned:
            connection.abandoned = 0.0
            reason = "its calls end before a question arrives"
            if self.close(peer):
                _log.warning("closed a connection: %s", reason, extra={LIMIT: f"closed: {reason}"})

    def close(self, *peers: str) -> int:
        """Close the connections of these peers, as gRPC names them; returns how many existed."""
        return self._close({peer for text in peers if (peer := parse_peer(text))})

    def _connection(self, peer: str) -> _Connection | None:
        """The state of a connection; None while nothing scans, as nothing would remove it again."""
        parsed = parse_peer(peer) if self._port else None
        if parsed is None:
            return None
        return self._connections.setdefault(parsed, _Connection(monotonic()))

    def _quarantine(self, peer: Peer | None, connection: _Connection) -> None:
        """Ignore a connection and close it later: closed now, it would return at once with as many
        calls. Until then it occupies its streams, so gRPC's core refuses further ones."""
        assert peer is not None  # `_connection` found the connection by it
        connection.closing = True
        self._quarantined[peer] = monotonic() + QUARANTINE_SECONDS * random.uniform(0.5, 1.5)
        if len(self._quarantined) > MAX_QUARANTINED:
            oldest = next(iter(self._quarantined))
            del self._quarantined[oldest]
            self._close({oldest})
        _log.warning("quarantined a connection that holds many calls without a message")

    def _close(self, peers: set[Peer]) -> int:
        if not self._port or not peers:
            return 0
        if not peers <= self._sockets.keys():  # some connected after the last scan
            self._sockets = accepted_sockets(self._port)
        present = peers & self._sockets.keys()
        closed = [peer for peer in present if shut_down(self._sockets.pop(peer), peer)]
        for peer in closed:
            self._connections.setdefault(peer, _Connection(monotonic())).closing = True
        return len(closed)

    async def _scan_repeatedly(self) -> None:
        pressure, peak = False, 0
        while True:
            await asyncio.sleep(_PRESSURE_SCAN_SECONDS if pressure else SCAN_SECONDS)
            try:
                pressure = self._scan()
            except OSError:
                _log.exception("scanning the connections failed")
            peak = max(peak, self.open)
            # While connections churn in an attack, their memory is reused: trim afterwards.
            calm = monotonic() > self._pressure_until
            calm = calm or self.open < peak // _TRIM_REMAINING_DIVISOR
            if peak - self.open >= TRIM_AFTER_CLOSED and calm:
                peak = self.open
                await asyncio.to_thread(release_free_memory)

    def _scan(self) -> bool:
        """Update the state from the sockets and close surplus connections; True if any was."""
        now = monotonic()
        due = {peer for peer, close_at in self._quarantined.items() if now >= close_at}
        for peer in due:
            del self._quarantined[peer]
        self._close(due)
        sockets = self._sockets = accepted_sockets(self._port)
        self.open = len(sockets)
        for peer in self._connections.keys() - sockets.keys():
            del self._connections[peer]
            self._quarantined.pop(peer, None)
        for peer in sockets.keys() - self._connections.keys():
            self._connections[peer] = _Connection(now)
        closed = sum(shut_down(sockets[peer], peer) for peer in self._surplus(sockets))
        if closed:
            message = "closed %d of %d connections to make room, idle for longest first"
            _log.warning(message, closed, len(sockets))
        return bool(closed)

    def _surplus(self, sockets: dict[Peer, int]) -> list[Peer]:
        """Connections to close: of addresses beyond their share, and of all beyond the limit."""
        surplus = max(0, len(sockets) - (self._limit - self._limit // _HEADROOM_DIVISOR))
        # By address alone: the connections of one peer differ in their ports.
        counts = Counter(peer.address for peer in sockets)
        excess = {address: count - self._address_limit for address, count in counts.items()}
        if not surplus and max(excess.values(), default=0) <= 0:
            return []
        # A connection with a running question is never closed to make room.
        idle = [peer for peer in sockets if not self._connections[peer].running]
        idle.sort(key=lambda peer: self._connections[peer].eviction_rank)
        # In the order of eviction: the first ones of each address are those beyond its share.
        over_share = [peer for peer in idle if _decrement(excess, peer.address)]
        taken = set(over_share)
        rest = [peer for peer in idle if peer not in taken]
        if surplus:
            # Whoever floods the port reconnects at once. So close unproven connections down to
            # half of the limit, as room for the next burst, but proven ones only as needed.
            unproven = sum(self._connections[peer].last_question_at is None for peer in rest)
            for_burst = min(len(sockets) - self._limit // 2, unproven + len(over_share))
            surplus = max(surplus, for_burst)
        return over_share + rest[: max(0, surplus - len(over_share))]


def _decrement(excess: dict[str, int], address: str) -> bool:
    """Count one connection of an address off; True if it was beyond the share."""
    excess[address] -= 1
    return excess[address] >= 0
