"""Certificate and key files: written atomically, in pairs, and never replaced."""

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
    """The contents of a certificate file and its key file. `repr` hides them: the key is secret."""

    stem: str
    certificate: bytes
    key: bytes

    def __repr__(self) -> str:
        return f"PemPair({self.stem!r})"


def pair_names(stem: str) -> tuple[str, str]:
    """The file names of a certificate and of its key."""
    return f"{stem}.pem", f"{stem}-key.pem"


def key_pem(key: EllipticCurvePrivateKey) -> bytes:
    """A key in PEM, without a passphrase."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def orphan_key(out: Path, stem: str) -> EllipticCurvePrivateKey | None:
    """The key of a pair whose certificate is missing, as after a crash between the two files; None
    if both are missing.

    Raises:
        ConfigError: the certificate exists, or the key file does not hold a usable key.
    """
    certificate, key = (out / name for name in pair_names(stem))
    if certificate.exists():
        raise _exists_error(certificate)
    if not key.exists():
        return None
    try:
        secret = load_pem_private_key(key.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise _exists_error(key) from error
    if not isinstance(secret, EllipticCurvePrivateKey):
        raise _exists_error(key)
    return secret


def write_pairs(out: Path, pairs: Sequence[PemPair]) -> list[Path]:
    """Write certificates and keys; returns the paths.

    In a new or empty directory all appear at once. In one with other files they are added pair by
    pair, each key before its certificate, so a certificate never lacks its key; a key that
    `orphan_key` returns is kept.

    Raises:
        ConfigError: a file exists or cannot be written; nothing is left behind then.
    """
    written: list[Path] = []
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with _folder(out) as folder:
            try:
                for pair in pairs:
                    _write_pair(folder, pair, written)
            # Also after Ctrl-C: files left behind would make the next call refuse to write.
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
    """The directory to write to: a new one that will replace an empty `out`, else `out` itself."""
    try:
        check_replaceable(out, ())
    except ConfigError:  # it holds files, is a mount point, or is a working directory
        return nullcontext(out)
    return new_folder(out, (), public=False)


def _write_pair(folder: Path, pair: PemPair, written: list[Path]) -> None:
    certificate, key = (folder / name for name in pair_names(pair.stem))
    orphan = orphan_key(folder, pair.stem)
    if orphan is None:
        write_file(key, pair.key, secret=True, replace=False)
        written.append(key)
    elif key_pem(orphan) != pair.key:
        raise _exists_error(key)
    write_file(certificate, pair.certificate, replace=False)
    written.append(certificate)


def _exists_error(path: Path) -> ConfigError:
    return ConfigError(
        f"expected to create {path}, got an existing file; move it away, or request only what is "
        "missing"
    )
