"""API keys of the gateway: none, one that all callers share, or one per caller from a file."""

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

REFRESH_SECONDS: Final = 1.0
"""Interval at which the file of keys is checked for changes."""
STALE_SECONDS: Final = 3.0
"""Age of the last check after which a request checks the file itself."""
CALLER = "caller"
"""Key of the caller's `TokenHolder` in a request's state, if callers have individual keys."""


class Keys:
    """The keys that requests may carry.

    Args:
        shared: the key that all callers share, by digest; empty if there is none.
        file: the individual keys of callers, if there are any.
    """

    def __init__(self, shared: Tokens, file: ReloadedFile[Tokens] | None = None) -> None:
        self._shared = shared
        self._file = file
        self._checked_at = time.monotonic()

    @property
    def required(self) -> bool:
        """Whether a request must carry a key."""
        return bool(self._shared) or self._file is not None

    @property
    def per_caller(self) -> bool:
        """Whether each caller has an individual key."""
        return self._file is not None

    def holder(self, authorization: str) -> TokenHolder | None:
        """The holder of the key in an `Authorization` header; None without a valid key."""
        # The loop of `watch` may be late on a busy machine: a revoked key must not work longer.
        if self._file is not None and time.monotonic() - self._checked_at > STALE_SECONDS:
            self._refresh()
        key = bearer_token(authorization)
        return None if key is None else holder_of(key, self._current)

    def is_valid(self, holder: TokenHolder) -> bool:
        """Whether the holder's key has not been revoked."""
        return holder.digest in self._current

    async def watch(self, on_change: Callable[[], None]) -> None:
        """Check the file at intervals until cancelled, and call `on_change` when keys changed."""
        previous = None if self._file is None else self._file.value
        while self._file is not None:
            await asyncio.sleep(REFRESH_SECONDS)
            await asyncio.to_thread(self._refresh)  # reading a file may block
            if self._file.value is not previous:  # also if a request refreshed it first
                previous = self._file.value
                on_change()

    @property
    def _current(self) -> Tokens:
        return self._shared if self._file is None else self._file.value

    def _refresh(self) -> None:
        assert self._file is not None
        self._checked_at = time.monotonic()
        self._file.reload()


def read_keys(config: GatewayConfig) -> Keys:
    """The keys that the config or the environment names.

    Raises:
        ConfigError: a file cannot be used, or both a shared and individual keys are given.
    """
    shared_key = read_token(config.api_key_file, KEY_VARIABLE)
    if config.api_keys is None:
        if shared_key is None:
            return Keys({})
        # Keys are compared by digest, as those in the file are; the key itself is not stored.
        digest = hashlib.sha256(shared_key.encode()).hexdigest()
        return Keys({digest: TokenHolder("", digest)})
    if shared_key is not None:
        raise ConfigError(
            f"expected api_keys, or one key from api_key_file or ${KEY_VARIABLE}, got both; add "
            "the one key to the file as a caller's"
        )
    return Keys({}, tokens_file(config.api_keys))
