"""Bearer tokens: what a client shows, and the digests that a service knows them by."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from aligned_vq.errors import ConfigError, Unauthenticated
from aligned_vq.yaml_file import DoubleKey, SingleKeys

TOKEN_BYTES = 16
"""Of chance: nobody guesses them. A token goes with every question, 22 characters of it."""
_BEARER = "bearer "


class _Loader(SingleKeys, yaml.BaseLoader):
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
        raise ConfigError(f"expected a name of printable text, got {name!r}; choose another")
    token = secrets.token_urlsafe(TOKEN_BYTES)
    try:
        handle = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(token)
    except OSError as error:
        raise ConfigError(
            f"expected to write a new file {out}, got: {error.strerror}; mend that, or choose "
            "another"
        ) from error
    return f"{json.dumps(name, ensure_ascii=False)}: {_digest(token)}"  # JSON is YAML


def read_tokens(path: Path) -> dict[str, str]:
    """Names by the SHA-256 of their tokens, as lower-case hex digits.

    Raises:
        ConfigError: the file is not a YAML mapping of names to such digests.
    """
    try:
        # Names and digests may look like numbers to YAML; all of them are text.
        found = yaml.load(path.read_text(), _Loader)
    except DoubleKey as error:
        raise ConfigError(
            f"{path}: expected each name once, got {error.key!r} twice; remove the old token's line"
        ) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        told = f"something else in line {mark.line + 1}" if mark else "something else"
        reason = error.strerror if isinstance(error, OSError) else told
        raise ConfigError(
            f"{path}: expected a YAML file of tokens, got: {reason}; write a line `name: SHA-256` "
            "for each client"
        ) from error
    if not isinstance(found, dict) or not found:
        raise ConfigError(
            f"{path}: expected a mapping of names to digests, got something else; write a line "
            "`name: SHA-256` for each client"
        )
    names: dict[str, str] = {}
    for name, digest in found.items():
        if not isinstance(digest, str) or not re.fullmatch("[0-9a-fA-F]{64}", digest):
            raise ConfigError(
                f"{path}: expected the SHA-256 of the token of {name!r} as 64 hex digits, got "
                "something else; write what `printf %s TOKEN | sha256sum` prints"
            )
        if not is_name(name):
            raise ConfigError(
                f"{path}: expected names of printable text, got {name!r}; choose another"
            )
        if digest.lower() in names:
            raise ConfigError(
                f"{path}: expected one token for each name, got the same for {name!r} and "
                f"{names[digest.lower()]!r}; draw another"
            )
        names[digest.lower()] = name
    return names


def token_name(metadata: Any, tokens: Mapping[str, str]) -> str:
    """The name of the client whose token a call's metadata brings; Unauthenticated: none does."""
    given = [value for key, value in metadata if key == "authorization"]
    if len(given) != 1 or not str(given[0]).lower().startswith(_BEARER):
        raise Unauthenticated(
            "expected a token in the call's metadata, `authorization: Bearer TOKEN`, got none; "
            "give the client its token file"
        )
    token = str(given[0])[len(_BEARER) :].strip()
    digest = _digest(token)
    found = None
    for known, name in tokens.items():  # all of them: the time taken tells nothing
        if hmac.compare_digest(known, digest):
            found = name
    if found is None:
        raise Unauthenticated(
            "expected a token known here, got another; ask the service's operator for one"
        )
    return found


def is_name(name: object) -> bool:
    """Fit for a log line."""
    return isinstance(name, str) and 0 < len(name) <= 200 and name.isprintable()


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
