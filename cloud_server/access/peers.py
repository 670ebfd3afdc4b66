"""Callers, and the connections each has used, in bounded memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from cloud_server.certificates.client import ClientCertificate
from protos.access.quota import NO_LIMITS, IndividualLimits

MAX_PEERS = 20_000


@dataclass(frozen=True)
class Caller:
    """An identified caller and its credential."""

    name: str
    """The identity, as in quotas and logs."""
    key: str = field(default="", repr=False)
    """SHA-256 of the token or of the certificate; empty for an anonymous caller."""
    limits: IndividualLimits = field(default_factory=lambda: NO_LIMITS)
    """Individual limits, where they differ from the defaults."""
    certificate: ClientCertificate | None = field(default=None, repr=False)


@dataclass
class _Peer:
    caller: Caller
    last_call: float
    shared_until: float = 0.0
    """Until then, callers other than `caller` may be using the connection too."""


class Peers:
    """Which caller used which connection.

    gRPC does not report when a connection ends. So a peer (its address and port) is removed once it
    has been silent for longer than a connection may last, and beyond `max_peers` the one that has
    been silent for longest is removed.

    Args:
        lifetime_seconds: longest life of a connection.
        max_peers: most peers to track.
    """

    def __init__(self, lifetime_seconds: float, max_peers: int = MAX_PEERS) -> None:
        self._lifetime_seconds = lifetime_seconds
        self._max_peers = max_peers
        self._peers: OrderedDict[str, _Peer] = OrderedDict()

    def __len__(self) -> int:
        return len(self._peers)

    def record(self, peer: str, caller: Caller, now: float) -> None:
        """Record a call from `peer`, as gRPC names it, at the time `now`."""
        entry = self._peers.get(peer)
        if entry is None:
            while self._peers and (
                len(self._peers) >= self._max_peers or self._oldest_expired(now)
            ):
                self._peers.popitem(last=False)
            self._peers[peer] = _Peer(caller, now)
            return
        if entry.caller.key != caller.key and caller.certificate is None:
            # A proxy's connection may carry several tokens, so it must not be closed because one of
            # them is refused. Another certificate means a new connection that reuses the port.
            entry.shared_until = entry.last_call + self._lifetime_seconds
        entry.caller, entry.last_call = caller, now
        self._peers.move_to_end(peer)

    def remove(self, peer: str) -> None:
        """Remove a peer whose connection is about to be closed."""
        self._peers.pop(peer, None)

    def remove_refused(self, refused: Callable[[Caller], bool], now: float) -> list[str]:
        """Remove and return the peers whose connections only refused callers have used."""
        is_refused: dict[str, bool] = {}
        removed = []
        for peer, entry in self._peers.items():
            key = entry.caller.key
            if key not in is_refused:
                is_refused[key] = refused(entry.caller)
            if is_refused[key] and entry.shared_until <= now:
                removed.append(peer)
        for peer in removed:
            del self._peers[peer]
        return removed

    def _oldest_expired(self, now: float) -> bool:
        # `record` moves peers to the end, so the first one has been silent for longest.
        return next(iter(self._peers.values())).last_call + self._lifetime_seconds < now
