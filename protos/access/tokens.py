"""Bearer tokens: what a client shows, and the digests that a service knows them by."""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from aligned_vq.errors import ConfigError
from aligned_vq.files.atomic_file import write_file
from aligned_vq.files.yaml_file import DoubleKey, SingleKeys
from protos.access.names import NAME_RULE, is_name
from protos.access.quota import LIMITS, NO_LIMITS, OwnLimits
from protos.access.reread import RereadFile

TOKEN_BYTES = 16
"""Of chance: nobody guesses them. A token goes with every question, 22 characters of it."""
_BEARER = "bearer "


@dataclass(frozen=True)
class TokenHolder:
    """Whom a token belongs to."""

    name: str
    digest: str = field(repr=False)
    """SHA-256 of the token, lower-case hex digits."""
    limits: OwnLimits = field(default_factory=lambda: NO_LIMITS)
    """Where they differ from those of everybody."""


Tokens = Mapping[str, TokenHolder]
"""By digest."""


class _TokenLoader(SingleKeys, yaml.BaseLoader):
    """All values are text, and no key comes twice."""


def make(name: str, out: Path) -> str:
    """Draw a token and write it to a file that only its owner may read.

    Args:
        name: of the client, its identity.
        out: the file.

    Returns:
        The client's line for the service's file of tokens.

    Raises:
        ConfigError: the name cannot be used, or the file is there or cannot be written.
    """
    if not is_name(name):
        raise ConfigError(f"expected a name of {NAME_RULE}, got {name!r:.210}; choose another")
    token = secrets.token_urlsafe(TOKEN_BYTES)
    try:
        write_file(out, token, secret=True, replace=False)
    except OSError as error:
        raise ConfigError(
            f"expected to write a new file {out}, got: {error.strerror}; mend that, or choose "
            "another"
        ) from error
    return f"{json.dumps(name, ensure_ascii=False)}: {_digest(token)}"  # JSON is YAML


def tokens_file(path: Path) -> RereadFile[Tokens]:
    """A file of tokens that is read again while serving.

    Raises:
        ConfigError: the file is not a YAML mapping of names to digests.
    """
    return RereadFile(path, "a YAML file of tokens", lambda data: parse_tokens(data, path))


def parse_tokens(data: bytes, path: Path) -> Tokens:
    """The holders of the tokens in a file: `name: SHA-256`, or for limits of one's own
    `name: {sha256: SHA-256, per_second: 2, burst: 4, at_once: 3}`, each limit optional.

    Raises:
        ConfigError: it is something else; the words name the file and never quote a digest.
    """
    try:
        # Names and digests may look like numbers to YAML; all of them are text.
        found = yaml.load(data.decode(), _TokenLoader)
    except DoubleKey as error:
        raise ConfigError(
            f"{path}: expected each name once, got {error.key!r} twice; remove the old token's line"
        ) from error
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        told = f"something else in line {mark.line + 1}" if mark else "something else"
        raise ConfigError(
            f"{path}: expected a YAML file of tokens, got: {told}; write a line `name: SHA-256` "
            "for each client"
        ) from error
    if not isinstance(found, dict) or not found:
        raise ConfigError(
            f"{path}: expected a mapping of names to digests, got something else; write a line "
            "`name: SHA-256` for each client"
        )
    holders: dict[str, TokenHolder] = {}
    for name, entry in found.items():
        holder = _holder(name, entry, path)
        if holder.digest in holders:
            raise ConfigError(
                f"{path}: expected one token for each name, got the same for {name!r} and "
                f"{holders[holder.digest].name!r}; draw another"
            )
        holders[holder.digest] = holder
    return holders


def bearer_token(authorization: str) -> str | None:
    """The token in `Bearer TOKEN`; None: it is something else."""
    if not authorization.lower().startswith(_BEARER):
        return None
    return authorization[len(_BEARER) :].strip()


def holder_of(token: str, tokens: Tokens) -> TokenHolder | None:
    """Whose token it is; None: nobody's. The time it takes says nothing about the tokens."""
    digest = _digest(token)
    found = None
    for known, holder in tokens.items():  # all of them
        if hmac.compare_digest(known, digest):
            found = holder
    return found


def _holder(name: object, entry: Any, path: Path) -> TokenHolder:
    digest, limits = entry, NO_LIMITS
    if isinstance(entry, dict):
        digest = entry.get("sha256")
        limits = {key: _limit(name, key, entry[key], path) for key in entry if key != "sha256"}
    if not isinstance(digest, str) or not re.fullmatch("[0-9a-fA-F]{64}", digest):
        raise ConfigError(
            f"{path}: expected the SHA-256 of the token of {name!r:.210} as 64 hex digits, got "
            "something else; write what `printf %s TOKEN | sha256sum` prints"
        )
    if not is_name(name):
        raise ConfigError(
            f"{path}: expected names of {NAME_RULE}, got {name!r:.210}; choose another"
        )
    return TokenHolder(str(name), digest.lower(), limits)


def _limit(name: object, key: object, text: object, path: Path) -> float:
    try:
        value = LIMITS[str(key)](str(text))
    except (KeyError, ValueError):
        value = -1
    if not (value >= 0 and math.isfinite(value)):
        raise ConfigError(
            f"{path}: expected limits of {name!r:.210} among {', '.join(LIMITS)}, each 0 (none) or "
            f"a positive number, got {key!r:.50} otherwise; write `per_second: 2`"
        )
    return value


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
