"""Bearer tokens of clients, and the digests by which a service recognises them."""

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
from protos.access.quota import LIMITS, NO_LIMITS, IndividualLimits
from protos.access.reloaded_file import ReloadedFile

TOKEN_BYTES = 16
"""Random bytes of a token: not guessable, and only 22 characters with every question."""
_BEARER = "bearer "


@dataclass(frozen=True)
class TokenHolder:
    """The client that a token belongs to."""

    name: str
    digest: str = field(repr=False)
    """SHA-256 of the token, as lower-case hex digits."""
    limits: IndividualLimits = field(default_factory=lambda: NO_LIMITS)
    """Individual limits, where they differ from the defaults."""


Tokens = Mapping[str, TokenHolder]
"""Token holders by digest."""


class _TokenLoader(SingleKeys, yaml.BaseLoader):
    """Loads all values as text and refuses repeated keys."""


def make(name: str, out: Path) -> str:
    """Generate a token and write it to a file that only its owner may read.

    Args:
        name: the client's identity.
        out: the file to create.

    Returns:
        The client's line for the service's token file.

    Raises:
        ConfigError: the name is invalid, or the file exists or cannot be written.
    """
    if not is_name(name):
        raise ConfigError(f"expected a name of {NAME_RULE}, got {name!r:.210}; choose another")
    token = secrets.token_urlsafe(TOKEN_BYTES)
    try:
        # Never replaced: an existing file may hold a token that a client uses.
        write_file(out, token, secret=True, replace=False)
    except OSError as error:
        raise ConfigError(
            f"expected to write a new file {out}, got: {error.strerror}; choose another path, or "
            "check permissions"
        ) from error
    return f"{json.dumps(name, ensure_ascii=False)}: {_digest(token)}"  # JSON is YAML


def tokens_file(path: Path) -> ReloadedFile[Tokens]:
    """A token file that is reloaded while serving.

    Raises:
        ConfigError: the file is not a YAML mapping of names to digests.
    """
    return ReloadedFile(path, "a YAML file of tokens", lambda data: parse_tokens(data, path))


def parse_tokens(data: bytes, path: Path) -> Tokens:
    """The holders of the tokens in a file of lines `name: SHA-256`, or with individual limits
    `name: {sha256: SHA-256, per_second: 2, burst: 4, at_once: 3}`, each limit optional.

    Raises:
        ConfigError: it is something else; the message names the file and never quotes a digest.
    """
    try:
        # YAML would take some names and digests for numbers, so everything is loaded as text.
        entries = yaml.load(data.decode(), _TokenLoader)
    except DoubleKey as error:
        raise ConfigError(
            f"{path}: expected each name once, got {error.key!r} twice; remove the old token's line"
        ) from error
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        # The line alone: the parser's message quotes text of the file, perhaps a digest.
        mark = getattr(error, "problem_mark", None)
        got = f"invalid YAML in line {mark.line + 1}" if mark else "invalid YAML"
        raise ConfigError(
            f"{path}: expected a YAML file of tokens, got {got}; write a line `name: SHA-256` "
            "for each client"
        ) from error
    if not isinstance(entries, dict) or not entries:
        raise ConfigError(
            f"{path}: expected a mapping of names to digests, got something else; write a line "
            "`name: SHA-256` for each client"
        )
    holders: dict[str, TokenHolder] = {}
    for name, entry in entries.items():
        holder = _holder(name, entry, path)
        if holder.digest in holders:
            raise ConfigError(
                f"{path}: expected one token for each name, got the same for {name!r} and "
                f"{holders[holder.digest].name!r}; generate another"
            )
        holders[holder.digest] = holder
    return holders


def bearer_token(authorization: str) -> str | None:
    """The token in `Bearer TOKEN`; None if the value has another form."""
    # The scheme is case-insensitive (RFC 9110, section 11.1), the token is not.
    if not authorization.lower().startswith(_BEARER):
        return None
    return authorization[len(_BEARER) :].strip()


def holder_of(token: str, tokens: Tokens) -> TokenHolder | None:
    """The holder of a token; None if it is unknown.

    All digests are compared in constant time, so that the duration reveals nothing about them.
    """
    digest = _digest(token)
    holder = None
    for known_digest, known_holder in tokens.items():  # no early exit, see above
        if hmac.compare_digest(known_digest, digest):
            holder = known_holder
    return holder


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
    # Lower case, as `_digest` writes it: digests are compared as text.
    return TokenHolder(str(name), digest.lower(), limits)


def _limit(name: object, key: object, text: object, path: Path) -> float:
    try:
        value = LIMITS[str(key)](str(text))
    except (KeyError, ValueError):
        # Out of range, so that the check below reports it.
        value = -1
    if not (value >= 0 and math.isfinite(value)):
        raise ConfigError(
            f"{path}: expected limits of {name!r:.210} among {', '.join(LIMITS)}, each 0 (none) or "
            f"a positive number, got {key!r:.50} otherwise; write `per_second: 2`"
        )
    return value


def _digest(token: str) -> str:
    # Surrogates, which stand for bytes that are not UTF-8, make an unknown token, not an error.
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
