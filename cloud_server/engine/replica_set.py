"""Several engines behind one or more names: which there are, which are well, whose turn it is."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import httpx2

from aligned_vq.errors import ConfigError

_log = logging.getLogger(__name__)

_HEALTH_TIMEOUT = httpx2.Timeout(5.0)


@dataclass(eq=False)
class Replica:
    """One engine at one address. `url` names the address, `host` what it was found under."""

    url: httpx2.URL
    host: str
    joined: bool = False
    """May be asked."""

    def request(
        self,
        client: httpx2.AsyncClient,
        method: str,
        path: str,
        json: Any = None,
        timeout: httpx2.Timeout | None = None,
    ) -> httpx2.Request:
        """A request to this replica, addressed as if to its name: TLS and proxies look at it."""
        return client.build_request(
            method,
            self.url.copy_with(path=path),
            json=json,
            timeout=client.timeout if timeout is None else timeout,
            headers={"Host": self.host},
            extensions={"sni_hostname": self.host.rsplit(":", 1)[0]},
        )


class ReplicaSet:
    """Asks after every replica's health again and again, and hands them out in turn.

    A name with several addresses, such as a headless Kubernetes Service, is as many replicas; names
    are looked up anew in every round. A replica joins once it is healthy and `probe` passes, leaves
    at the first sign that it is not, and may join again in a later round.

    Args:
        urls: `http://host:port` of engines.
        client: makes the requests.
        probe: told of a replica before it joins; an exception keeps it out.
        on_leave: told of a replica that is asked no more.
        round_seconds: pause between two rounds.

    Raises:
        ConfigError: no URL, or one that is none.
    """

    def __init__(
        self,
        urls: Sequence[str],
        client: httpx2.AsyncClient,
        probe: Callable[[Replica], Awaitable[None]],
        on_leave: Callable[[Replica], None] = lambda replica: None,
        round_seconds: float = 2.0,
    ) -> None:
        self._urls = [_parsed(url) for url in urls]
        if not self._urls:
            raise ConfigError(
                "expected engine_urls for engine 'replicas', got none; give http://host:port of "
                "every engine, or of one name that has all their addresses"
            )
        self._client = client
        self._probe = probe
        self._on_leave = on_leave
        self._round_seconds = round_seconds
        self._replicas: dict[tuple[str, str], Replica] = {}
        self._turn = 0
        self._rounds: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """Replicas that may be asked."""
        return sum(replica.joined for replica in self._replicas.values())

    def next(self, tried: Collection[Replica] = ()) -> Replica | None:
        """The one whose turn it is among those not tried yet; None if there is none."""
        able = [own for own in self._replicas.values() if own.joined and own not in tried]
        if not able:
            return None
        self._turn += 1
        return able[self._turn % len(able)]

    def leave(self, replica: Replica, reason: str) -> None:
        """Ask it no more until it is well again."""
        if replica.joined:
            replica.joined = False
            _log.warning("engine %s left: %s", replica.url, reason)
            self._on_leave(replica)

    async def start(self) -> None:
        """One round now, and the others from here on."""
        await self._round()
        self._rounds = asyncio.create_task(self._repeat())

    async def close(self) -> None:
        """Ask no more."""
        if self._rounds is not None:
            self._rounds.cancel()
            await asyncio.gather(self._rounds, return_exceptions=True)

    async def _repeat(self) -> None:
        while True:
            await asyncio.sleep(self._round_seconds)
            try:
                await self._round()
            except Exception:  # a bug must not end the rounds  # noqa: BLE001
                _log.exception("a round of health checks failed")

    async def _round(self) -> None:
        await asyncio.gather(*(self._look_up(url) for url in self._urls))
        await asyncio.gather(*(self._check(own) for own in list(self._replicas.values())))

    async def _look_up(self, url: httpx2.URL) -> None:
        """Take in the addresses a name has now; one it has no more is dropped. A name that cannot
        be looked up keeps those it had."""
        port = url.port or (443 if url.scheme == "https" else 80)
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(url.host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            _log.warning("engine name %s cannot be looked up: %s", url.host, error)
            return
        host = url.netloc.decode()
        addresses = {str(info[4][0]) for info in found}
        for name, address in list(self._replicas):
            if name == host and address not in addresses:
                self.leave(self._replicas.pop((name, address)), "its name has lost this address")
        for address in sorted(addresses):
            if (host, address) not in self._replicas:
                self._replicas[host, address] = Replica(url.copy_with(host=address), host)

    async def _check(self, replica: Replica) -> None:
        try:
            asked = replica.request(self._client, "GET", "/health", timeout=_HEALTH_TIMEOUT)
            answer = await self._client.send(asked)
        except httpx2.HTTPError as error:
            self.leave(replica, type(error).__name__)
            return
        if answer.status_code != 200:
            self.leave(replica, f"/health says {answer.status_code}")
        elif not replica.joined:
            try:
                await self._probe(replica)
            except Exception as error:  # whatever it is, it keeps out  # noqa: BLE001
                _log.warning("engine %s may not join: %s", replica.url, error)
                return
            replica.joined = True
            _log.info("engine %s joined", replica.url)


def _parsed(url: str) -> httpx2.URL:
    try:
        parsed = httpx2.URL(url.strip())
    except httpx2.InvalidURL as error:
        raise ConfigError(f"engine_urls: {url!r} is not a URL ({error})") from error
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.path not in ("", "/"):
        raise ConfigError(f"engine_urls: expected http://host:port, got {url!r}; give no path")
    return parsed
