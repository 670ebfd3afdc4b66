"""Who may call: everybody, holders of one key, or callers with a key each, from a file."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from typing import Final

from aligned_vq.errors import ConfigError
from edge_client.connection.credentials import read_token
from edge_client.gateway.config import KEY_VARIABLE, GatewayConfig
from protos.access.reloaded_file import ReloadedFile
from protos.access.tokens import TokenHolder, Tokens, bearer_token, holder_of, tokens_file

LOOK_SECONDS: Final = 1.0
"""From one look at the file to the next."""
STALE_SECONDS: Final = 3.0
"""A request looks at the file itself where that was longer ago."""
CALLER = "caller"
"""Where a request's state has its `TokenHolder`, if callers have keys of their own."""


class Keys:
    """The keys that requests may bring.

    Args:
        one: digest of the key that all callers share, if there is one.
        file: of each caller's key, if there is one.
    """

    def __init__(self, one: Tokens, file: ReloadedFile[Tokens] | None = None) -> None:
        self._one = one
        self._file = file
        self._looked = time.monotonic()

    @property
    def wanted(self) -> bool:
        """Must a request bring one?"""
        return bool(self._one) or self._file is not None

    @property
    def named(self) -> bool:
        """Has each caller one of its own?"""
        return self._file is not None

    def holder(self, authorization: str) -> TokenHolder | None:
        """Whose key a request's `Authorization` brings; None: nobody's."""
        if self._file is not None and time.monotonic() - self._looked > STALE_SECONDS:
            self._refresh()
        key = bearer_token(authorization)
        return None if key is None else holder_of(key, self._now)

    def good(self, holder: TokenHolder) -> bool:
        """Is its key still one of them?"""
        return holder.digest in self._now

    async def watch(self, changed: Callable[[], None]) -> None:
        """Look at the file again and again until cancelled; `changed` is told of other keys."""
        seen = None if self._file is None else self._file.value
        while self._file is not None:
            await asyncio.sleep(LOOK_SECONDS)
            await asyncio.to_thread(self._refresh)
            if self._file.value is not seen:  # a request may have looked first
                seen = self._file.value
                changed()

    @property
    def _now(self) -> Tokens:
        return self._one if self._file is None else self._file.value

    def _refresh(self) -> None:
        assert self._file is not None
        self._looked = time.monotonic()
        self._file.reload()


def read_keys(config: GatewayConfig) -> Keys:
    """The keys that settings or the environment name.

    Raises:
        ConfigError: a file cannot be used, or both kinds are given.
    """
    one = read_token(config.api_key_file, KEY_VARIABLE)
    if config.api_keys is None:
        if one is None:
            return Keys({})
        digest = hashlib.sha256(one.encode()).hexdigest()
        return Keys({digest: TokenHolder("", digest)})
    if one is not None:
        raise ConfigError(
            f"expected api_keys, or one key from api_key_file or ${KEY_VARIABLE}, got both; add "
            "the one key to the file as a caller's"
        )
    return Keys({}, tokens_file(config.api_keys))
