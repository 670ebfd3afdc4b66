"""Discovery, health checks and rotation of engine replicas behind one or more host names."""

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
    """One engine at one address: `url` has the address, `host` the name it was resolved from."""

    url: httpx2.URL
    host: str
    joined: bool = False
    """Whether it is in rotation."""

    def request(
        self,
        client: httpx2.AsyncClient,
        method: str,
        path: str,
        json: Any = None,
        timeout: httpx2.Timeout | None = None,
    ) -> httpx2.Request:
        """A request to this replica's address with its host name, which TLS and proxies check."""
        return client.build_request(
            method,
            self.url.copy_with(path=path),
            json=json,
            timeout=client.timeout if timeout is None else timeout,
            headers={"Host": self.host},
            extensions={"sni_hostname": self.host.rsplit(":", 1)[0]},
        )


class ReplicaSet:
    """Checks the health of replicas periodically and hands out the healthy ones round robin.

    A name with several addresses, such as a headless Kubernetes Service, stands for as many
    replicas; names are resolved in every round. A replica joins the rotation once it is healthy and
    `probe` passes, leaves at the first failure, and may join again in a later round.

    Args:
        urls: `http://host:port` of engines.
        client: sends the requests.
        probe: called with a replica before it joins; an exception keeps it out.
        on_leave: called with a replica that left the rotation.
        interval_seconds: pause between two rounds.

    Raises:
        ConfigError: there is no URL, or an invalid one.
    """

    def __init__(
        self,
        urls: Sequence[str],
        client: httpx2.AsyncClient,
        probe: Callable[[Replica], Awaitable[None]],
        on_leave: Callable[[Replica], None] = lambda replica: None,
        interval_seconds: float = 2.0,
    ) -> None:
        self._urls = [_parse_url(url) for url in urls]
        if not self._urls:
            raise ConfigError(
                "expected engine_urls for engine 'replicas', got none; set http://host:port of "
                "every engine, or of one name that resolves to all of them"
            )
        self._client = client
        self._probe = probe
        self._on_leave = on_leave
        self._interval_seconds = interval_seconds
        self._replicas: dict[tuple[str, str], Replica] = {}
        self._next_index = 0
        self._checking: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """Replicas in rotation."""
        return sum(replica.joined for replica in self._replicas.values())

    def next(self, tried: Collection[Replica] = ()) -> Replica | None:
        """The next replica in rotation, round robin, without those tried; None if none is left."""
        candidates = [
            replica
            for replica in self._replicas.values()
            if replica.joined and replica not in tried
        ]
        if not candidates:
            return None
        self._next_index += 1
        return candidates[self._next_index % len(candidates)]

    def leave(self, replica: Replica, reason: str) -> None:
        """Take a replica out of rotation until it is healthy again."""
        if replica.joined:
            replica.joined = False
            _log.warning("engine %s left: %s", replica.url, reason)
            self._on_leave(replica)

    async def start(self) -> None:
        """Run one round of checks now, and further ones in the background."""
        await self._check_all()
        self._checking = asyncio.create_task(self._repeat())

    async def close(self) -> None:
        """Stop the checks."""
        if self._checking is not None:
            self._checking.cancel()
            await asyncio.gather(self._checking, return_exceptions=True)

    async def _repeat(self) -> None:
        while True:
            await asyncio.sleep(self._interval_seconds)
            try:
                await self._check_all()
            except Exception:  # a bug must not end the rounds  # noqa: BLE001
                _log.exception("a round of health checks failed")

    async def _check_all(self) -> None:
        # Names first, so that new addresses are checked in the same round.
        await asyncio.gather(*(self._resolve(url) for url in self._urls))
        await asyncio.gather(*(self._check(replica) for replica in list(self._replicas.values())))

    async def _resolve(self, url: httpx2.URL) -> None:
        """Resolve a name: add its new addresses and drop those it has lost. If it cannot be
        resolved, its addresses stay."""
        port = url.port or (443 if url.scheme == "https" else 80)
        loop = asyncio.get_running_loop()
        try:
            resolved = await loop.getaddrinfo(url.host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            _log.warning("resolving the engine name %s failed: %s", url.host, error)
            return
        host = url.netloc.decode()
        addresses = {str(info[4][0]) for info in resolved}
        for name, address in list(self._replicas):
            if name == host and address not in addresses:
                replica = self._replicas.pop((name, address))
                self.leave(replica, "its name does not resolve to this address any more")
        # Sorted, so that the rotation does not depend on the resolver's order.
        for address in sorted(addresses):
            if (host, address) not in self._replicas:
                self._replicas[host, address] = Replica(url.copy_with(host=address), host)

    async def _check(self, replica: Replica) -> None:
        try:
            request = replica.request(self._client, "GET", "/health", timeout=_HEALTH_TIMEOUT)
            response = await self._client.send(request)
        except httpx2.HTTPError as error:
            self.leave(replica, type(error).__name__)
            return
        if response.status_code != 200:
            self.leave(replica, f"/health returned status {response.status_code}")
        # Not in every round: a probe costs an answer.
        elif not replica.joined:
            try:
                await self._probe(replica)
            except Exception as error:  # any failure keeps it out  # noqa: BLE001
                _log.warning("engine %s failed its probe: %s", replica.url, error)
                return
            replica.joined = True
            _log.info("engine %s joined", replica.url)


def _parse_url(url: str) -> httpx2.URL:
    try:
        parsed = httpx2.URL(url.strip())
    except httpx2.InvalidURL as error:
        raise ConfigError(
            f"expected engine_urls of the form http://host:port, got {url!r} ({error}); correct it"
        ) from error
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.path not in ("", "/"):
        raise ConfigError(
            f"expected engine_urls of the form http://host:port, got {url!r}; leave out any path"
        )
    return parsed
