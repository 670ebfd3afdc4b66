"""Certificates and their keys as files: written whole, in pairs, never over anything."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from aligned_vq.errors import ConfigError
from aligned_vq.files.atomic_file import write_file
from aligned_vq.files.atomic_folder import check_replaceable, new_folder


class PemPair(NamedTuple):
    """What the two files of a pair hold."""

    stem: str
    certificate: bytes
    key: bytes

    def __repr__(self) -> str:
        return f"PemPair({self.stem!r})"


def pair_names(stem: str) -> tuple[str, str]:
    """The names of a certificate's file and of its key's."""
    return f"{stem}.pem", f"{stem}-key.pem"


def key_pem(key: EllipticCurvePrivateKey) -> bytes:
    """A key as a file holds it, without a passphrase."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def lone_key(out: Path, stem: str) -> EllipticCurvePrivateKey | None:
    """The key of a pair whose certificate was never written; None: neither is there.

    Raises:
        ConfigError: the certificate is there, or a file that is no such key.
    """
    certificate, key = (out / name for name in pair_names(stem))
    if certificate.exists():
        raise _taken(certificate)
    if not key.exists():
        return None
    try:
        found = load_pem_private_key(key.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise _taken(key) from error
    if not isinstance(found, EllipticCurvePrivateKey):
        raise _taken(key)
    return found


def write_pairs(out: Path, pairs: Sequence[PemPair]) -> list[Path]:
    """Write certificates and keys; returns the files.

    All of them come at once where `out` is new or empty. To other files they are added pair by
    pair, each key before its certificate, so whoever finds a certificate finds both; a key may be
    there already (`lone_key`).

    Raises:
        ConfigError: a file is there already, or cannot be written; nothing was written then.
    """
    written: list[Path] = []
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with _folder(out) as folder:
            try:
                for pair in pairs:
                    _write_pair(folder, pair, written)
            except BaseException:
                for path in written:
                    path.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise ConfigError(
            f"expected to write certificates and keys in {out}, got: {error.strerror}; choose "
            "another directory"
        ) from error
    return [out / name for pair in pairs for name in pair_names(pair.stem)]


def _folder(out: Path) -> AbstractContextManager[Path]:
    """Where to write: a folder that takes the place of `out` if that is empty, else `out`."""
    try:
        check_replaceable(out, ())
    except ConfigError:  # it holds files, is a mount point, or a shell works in it
        return nullcontext(out)
    return new_folder(out, (), public=False)


def _write_pair(folder: Path, pair: PemPair, written: list[Path]) -> None:
    certificate, key = (folder / name for name in pair_names(pair.stem))
    lone = lone_key(folder, pair.stem)
    if lone is None:
        write_file(key, pair.key, secret=True, replace=False)
        written.append(key)
    elif key_pem(lone) != pair.key:
        raise _taken(key)
    write_file(certificate, pair.certificate, replace=False)
    written.append(certificate)


def _taken(path: Path) -> ConfigError:
    return ConfigError(
        f"expected to make {path}, got one that is there already; move it away, or ask for what is "
        "missing only"
    )
