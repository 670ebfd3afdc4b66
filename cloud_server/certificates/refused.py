"""Certificates that are refused before they end: a CRL of the authority, or a list in YAML."""

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
_MAX_SERIAL_DIGITS = 40  # 20 bytes, as RFC 5280 has it


@dataclass(frozen=True)
class RefusedCertificates:
    """What is refused, and until when a CRL says that it is complete."""

    names: frozenset[str] = frozenset()
    serials: frozenset[int] = frozenset()
    fingerprints: frozenset[str] = frozenset()
    revoked: frozenset[tuple[str, int]] = frozenset()
    """Issuers, as RFC 4514 writes them, with serial numbers."""
    ends: float | None = None
    """Seconds since 1970 when the first CRL should have been replaced; None: no such time."""

    def __contains__(self, certificate: ClientCertificate) -> bool:
        return (
            certificate.name in self.names
            or certificate.serial in self.serials
            or certificate.fingerprint in self.fingerprints
            or (certificate.issuer, certificate.serial) in self.revoked
        )


class _RefusedLoader(SingleKeys, yaml.BaseLoader):
    """All values are text, and no key comes twice."""


def parse_refused(
    data: bytes, path: Path, authorities: Iterable[x509.Certificate]
) -> RefusedCertificates:
    """What a file refuses: one or several CRLs in PEM, or YAML with any of the lists `names`,
    `serials` (hex digits, as `openssl x509 -serial` prints them) and `fingerprints` (SHA-256).

    Args:
        data: the file's contents. Nothing at all is an error: a file that was cut short must not
            let anybody in again.
        path: for people.
        authorities: one of them must have signed each CRL.

    Raises:
        ConfigError: it is something else, or no authority here signed it.
    """
    if b"X509 CRL" in data:
        return _of_crls(data, path, tuple(authorities))
    try:
        found = yaml.load(data.decode(), _RefusedLoader)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise _unusable(path, "something else") from error
    if not isinstance(found, dict) or not found:
        raise _unusable(path, "no such list")
    for key, entries in found.items():
        if key not in _KEYS or not isinstance(entries, list):
            raise _unusable(path, f"something else at {key!r:.50}")
    return RefusedCertificates(
        names=frozenset(_name(entry, path) for entry in found.get("names", ())),
        serials=frozenset(_serial(entry, path) for entry in found.get("serials", ())),
        fingerprints=frozenset(_print(entry, path) for entry in found.get("fingerprints", ())),
    )


def _of_crls(
    data: bytes, path: Path, authorities: tuple[x509.Certificate, ...]
) -> RefusedCertificates:
    blocks = _CRL.findall(data)
    if not blocks or len(blocks) != data.count(b"-----BEGIN X509 CRL-----"):
        raise _unusable(path, "a CRL that is cut short")
    revoked, ends = set[tuple[str, int]](), list[float]()
    for block in blocks:
        try:
            crl = x509.load_pem_x509_crl(block)
            signed = any(_signed(crl, authority) for authority in authorities)
            critical = any(extension.critical for extension in crl.extensions)
            issuer = crl.issuer.rfc4514_string()
            for each in crl:
                critical |= any(extension.critical for extension in each.extensions)
                revoked.add((issuer, each.serial_number))
            next_update = crl.next_update_utc
        except (ValueError, UnsupportedAlgorithm) as error:
            raise _unusable(path, "a CRL that cannot be read") from error
        if not signed:
            raise ConfigError(
                f"{path}: expected a CRL that an authority in tls_clients signed, got one of "
                f"another ({issuer:.200}); put the authority's own there"
            )
        if critical:
            raise ConfigError(
                f"{path}: expected a whole CRL of the authority's own certificates, got one with "
                "critical extensions, as delta and indirect ones have; put a whole one there"
            )
        if next_update is not None:
            ends.append(next_update.timestamp())
    return RefusedCertificates(revoked=frozenset(revoked), ends=min(ends, default=None))


def _signed(crl: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    try:
        return crl.issuer == authority.subject and crl.is_signature_valid(
            authority.public_key()  # type: ignore[arg-type]  # others raise TypeError
        )
    except TypeError:
        return False


def _name(entry: Any, path: Path) -> str:
    if not is_name(entry):
        raise ConfigError(
            f"{path}: expected names of {NAME_RULE}, got {entry!r:.210}; write the common name"
        )
    return str(entry)


def _serial(entry: Any, path: Path) -> int:
    digits = str(entry).replace(":", "").lower().removeprefix("0x")
    if not re.fullmatch(f"[0-9a-f]{{1,{_MAX_SERIAL_DIGITS}}}", digits):
        raise ConfigError(
            f"{path}: expected serial numbers in hex digits, got {entry!r:.60}; write what "
            "`openssl x509 -noout -serial -in FILE` prints behind ="
        )
    return int(digits, 16)


def _print(entry: Any, path: Path) -> str:
    digits = str(entry).replace(":", "").lower()
    if not re.fullmatch("[0-9a-f]{64}", digits):
        raise ConfigError(
            f"{path}: expected fingerprints of 64 hex digits, got {entry!r:.80}; write what "
            "`openssl x509 -noout -fingerprint -sha256 -in FILE` prints behind ="
        )
    return digits


def _unusable(path: Path, came: str) -> ConfigError:
    return ConfigError(
        f"{path}: expected a CRL in PEM, or YAML with lists at {', '.join(_KEYS)}, got {came}; "
        "`cloud-server certs --revoke NAME` writes one, and `names: []` refuses nobody"
    )
