"""The deny-list of client certificates: CRLs of the authority, or lists in YAML."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from aligned_vq.errors import ConfigError
from aligned_vq.files.yaml_file import SingleKeys
from cloud_server.certificates.client import ClientCertificate
from protos.access.names import NAME_RULE, is_name

_CRL = re.compile(b"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----", re.DOTALL)
_KEYS = ("names", "serials", "fingerprints")
_MAX_SERIAL_DIGITS = 40  # 20 bytes, by RFC 5280


@dataclass(frozen=True)
class RefusedCertificates:
    """Refused certificates, and until when the CRLs are up to date."""

    names: frozenset[str] = frozenset()
    serials: frozenset[int] = frozenset()
    fingerprints: frozenset[str] = frozenset()
    revoked: frozenset[tuple[str, int]] = frozenset()
    """Issuers, in the notation of RFC 4514, with serial numbers."""
    next_update: float | None = None
    """When the first CRL is due to be replaced, in seconds since 1970; None if none is."""

    def __contains__(self, certificate: ClientCertificate) -> bool:
        return (
            certificate.name in self.names
            or certificate.serial in self.serials
            or certificate.fingerprint in self.fingerprints
            or (certificate.issuer, certificate.serial) in self.revoked
        )


class _RefusedLoader(SingleKeys, yaml.BaseLoader):
    """Loads all values as text, as serials may look like numbers, and refuses repeated keys."""


def parse_refused(
    data: bytes, path: Path, authorities: Iterable[x509.Certificate]
) -> RefusedCertificates:
    """Parse a deny-list: one or several CRLs in PEM, or YAML with any of the lists `names`,
    `serials` (hex digits, as `openssl x509 -serial` prints them) and `fingerprints` (SHA-256).

    Args:
        data: the file's contents. An empty file is an error: a truncated one must not readmit
            anybody.
        path: for error messages.
        authorities: one of them must have signed each CRL.

    Raises:
        ConfigError: it is something else, or no authority in `authorities` signed a CRL.
    """
    if b"X509 CRL" in data:
        return _parse_crls(data, path, tuple(authorities))
    try:
        lists = yaml.load(data.decode(), _RefusedLoader)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise _unusable(path, "invalid YAML") from error
    if not isinstance(lists, dict) or not lists:
        raise _unusable(path, "none of them")
    for key, entries in lists.items():
        if key not in _KEYS or not isinstance(entries, list):
            raise _unusable(path, f"an invalid entry {key!r:.50}")
    return RefusedCertificates(
        names=frozenset(_name(entry, path) for entry in lists.get("names", ())),
        serials=frozenset(_serial(entry, path) for entry in lists.get("serials", ())),
        fingerprints=frozenset(
            _fingerprint(entry, path) for entry in lists.get("fingerprints", ())
        ),
    )


def _parse_crls(
    data: bytes, path: Path, authorities: tuple[x509.Certificate, ...]
) -> RefusedCertificates:
    blocks = _CRL.findall(data)
    # A CRL without its end line is not matched, and must not be ignored silently.
    if not blocks or len(blocks) != data.count(b"-----BEGIN X509 CRL-----"):
        raise _unusable(path, "a truncated CRL")
    revoked, next_updates = set[tuple[str, int]](), list[float]()
    for block in blocks:
        try:
            crl = x509.load_pem_x509_crl(block)
            is_signed = any(_has_signed(authority, crl) for authority in authorities)
            # A CRL with an unknown critical extension must not be used (RFC 5280, 5.2).
            has_critical = any(extension.critical for extension in crl.extensions)
            issuer = crl.issuer.rfc4514_string()
            for entry in crl:
                has_critical |= any(extension.critical for extension in entry.extensions)
                revoked.add((issuer, entry.serial_number))
            next_update = crl.next_update_utc
        except (ValueError, UnsupportedAlgorithm) as error:
            raise _unusable(path, "a malformed CRL") from error
        if not is_signed:
            raise ConfigError(
                f"{path}: expected a CRL that an authority in tls_clients signed, got one of "
                f"another ({issuer:.200}); use a CRL of one in tls_clients"
            )
        if has_critical:
            raise ConfigError(
                f"{path}: expected a complete CRL of the authority itself, got one with critical "
                "extensions, as delta and indirect CRLs have; use a complete one"
            )
        if next_update is not None:
            next_updates.append(next_update.timestamp())
    return RefusedCertificates(
        revoked=frozenset(revoked), next_update=min(next_updates, default=None)
    )


def _has_signed(authority: x509.Certificate, crl: x509.CertificateRevocationList) -> bool:
    try:
        return crl.issuer == authority.subject and crl.is_signature_valid(
            authority.public_key()  # type: ignore[arg-type]  # others raise TypeError
        )
    except TypeError:
        return False


def _name(entry: Any, path: Path) -> str:
    if not is_name(entry):
        raise ConfigError(
            f"{path}: expected names of {NAME_RULE}, got {entry!r:.210}; list the common name"
        )
    return str(entry)


def _serial(entry: Any, path: Path) -> int:
    digits = str(entry).replace(":", "").lower().removeprefix("0x")
    if not re.fullmatch(f"[0-9a-f]{{1,{_MAX_SERIAL_DIGITS}}}", digits):
        raise ConfigError(
            f"{path}: expected serial numbers in hex digits, got {entry!r:.60}; list what "
            "`openssl x509 -noout -serial -in FILE` prints after ="
        )
    return int(digits, 16)


def _fingerprint(entry: Any, path: Path) -> str:
    # OpenSSL prints fingerprints with colons and in upper case.
    digits = str(entry).replace(":", "").lower()
    if not re.fullmatch("[0-9a-f]{64}", digits):
        raise ConfigError(
            f"{path}: expected fingerprints of 64 hex digits, got {entry!r:.80}; list what "
            "`openssl x509 -noout -fingerprint -sha256 -in FILE` prints after ="
        )
    return digits


def _unusable(path: Path, got: str) -> ConfigError:
    return ConfigError(
        f"{path}: expected a CRL in PEM, or YAML with lists at {', '.join(_KEYS)}, got {got}; "
        "`cloud-server certs --revoke NAME` writes a CRL, and `names: []` refuses nobody"
    )
