"""Callers, and which connections they have used, as far as memory for that is bounded."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from cloud_server.certificates.client import ClientCertificate
from protos.access.quota import NO_LIMITS, OwnLimits

MAX_PEERS = 20_000


@dataclass(frozen=True)
class Caller:
    """Who calls, and by which credential."""

    name: str
    """The identity: what quotas count by, and what logs say."""
    key: str = field(default="", repr=False)
    """SHA-256 of the token or of the certificate; empty where nobody is asked who they are."""
    limits: OwnLimits = field(default_factory=lambda: NO_LIMITS)
    """Where they differ from those of everybody."""
    certificate: ClientCertificate | None = field(default=None, repr=False)


@dataclass
class _Peer:
    caller: Caller
    seen: float
    shared_until: float = 0.0
    """Until then others than `caller` may be on the connection, too."""


class Peers:
    """Who called over which connection.

    gRPC does not say when a connection ends, so a peer (its address and port) is forgotten when it
    has been silent for longer than a connection may last, and the one silent for longest where
    there are too many.

    Args:
        lifetime_seconds: of the oldest connection.
        max_peers: most to remember.
    """

    def __init__(self, lifetime_seconds: float, max_peers: int = MAX_PEERS) -> None:
        self._lifetime = lifetime_seconds
        self._max = max_peers
        self._peers: OrderedDict[str, _Peer] = OrderedDict()

    def __len__(self) -> int:
        return len(self._peers)

    def note(self, peer: str, caller: Caller, now: float) -> None:
        """The caller called from `peer`, as gRPC names it, at that time."""
        found = self._peers.get(peer)
        if found is None:
            while self._peers and (len(self._peers) >= self._max or self._oldest_over(now)):
                self._peers.popitem(last=False)
            self._peers[peer] = _Peer(caller, now)
            return
        if found.caller.key != caller.key and caller.certificate is None:
            # Tokens may share a proxy's connection: the others' calls are not to be ended. Another
            # certificate is another connection from a port that is used again.
            found.shared_until = found.seen + self._lifetime
        found.caller, found.seen = caller, now
        self._peers.move_to_end(peer)

    def forget(self, peer: str) -> None:
        """Its connection is about to end."""
        self._peers.pop(peer, None)

    def take(self, refused: Callable[[Caller], bool], now: float) -> list[str]:
        """The connections that only refused callers have used; they are forgotten here."""
        verdicts: dict[str, bool] = {}
        taken = []
        for peer, found in self._peers.items():
            key = found.caller.key
            if key not in verdicts:
                verdicts[key] = refused(found.caller)
            if verdicts[key] and found.shared_until <= now:
                taken.append(peer)
        for peer in taken:
            del self._peers[peer]
        return taken

    def _oldest_over(self, now: float) -> bool:
        return next(iter(self._peers.values())).seen + self._lifetime < now
