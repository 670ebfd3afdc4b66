"""Issues server and client certificates from a test authority, for `cloud-server certs`.

Suitable for trials and a handful of machines: the authority's key is stored beside the certificates
without a passphrase, and whoever reads it can issue a certificate for any client.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from aligned_vq.errors import ConfigError
from cloud_server.certificates.pem_files import (
    PemPair,
    key_pem,
    orphan_key,
    pair_names,
    write_pairs,
)

DEFAULT_HOSTS = ("localhost", "127.0.0.1")
AUTHORITY_DAYS = 3650
_CLOCK_SKEW = timedelta(hours=1)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class CertificateAndKey:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def certificate_pem(self) -> bytes:
        """The certificate in PEM."""
        return self.certificate.public_bytes(Encoding.PEM)

    def key_pem(self) -> bytes:
        """The key in PEM, without a passphrase."""
        return key_pem(self.key)


def make(
    out: Path, hosts: Sequence[str] | None, clients: Sequence[str] = (), days: int = 365
) -> list[Path]:
    """Write `ca.pem`, `server.pem` and a certificate for each client, each with a `-key.pem` that
    only its owner may read. An existing authority signs the others.

    In a new or empty directory all files appear at once. In one with other files they are added
    pair by pair, each key before its certificate; a key that a crash left without a certificate is
    used.

    Args:
        out: directory; created if missing.
        hosts: names and addresses of the service; None is localhost, or no server certificate if
            one exists.
        clients: identities to issue certificates for.
        days: validity of the new certificates, at most until the authority expires.

    Returns:
        The paths of the files.

    Raises:
        ConfigError: a file exists, or an argument or the authority is unusable; nothing is written
            then.
    """
    if days < 1:
        raise ConfigError(f"expected at least one day, got {days}; ask for more")
    if hosts is None and not (out / "server.pem").exists():
        hosts = DEFAULT_HOSTS
    # Validate all arguments first, so that nothing is written for invalid ones.
    alternatives = [_alternative_name(host) for host in hosts or ()]
    # Each once: a second pair of the same name would collide with the first.
    clients = tuple(dict.fromkeys(clients))
    for name in clients:
        if not _NAME.fullmatch(name) or name.endswith("-key"):  # key files end in -key.pem
            raise ConfigError(
                "expected client names of 1 to 64 letters, digits, dots, dashes and underscores, "
                f"not ending in -key, got {name!r}; choose another"
            )
    stems = [*(["server"] if alternatives else []), *(f"client-{name}" for name in clients)]
    authority_exists = all((out / name).exists() for name in pair_names("ca"))
    orphans = {
        stem: orphan_key(out, stem) for stem in (stems if authority_exists else ["ca", *stems])
    }
    authority = (
        open_authority(out)
        if authority_exists
        else new_authority(max(days, AUTHORITY_DAYS), key=orphans["ca"])
    )
    end = datetime.now(UTC) + timedelta(days=days)
    issued = [] if authority_exists else [("ca", authority)]
    if alternatives:
        server_name = (hosts or ("",))[0]
        pair = issue(authority, server_name, end, alternatives, key=orphans["server"])
        issued.append(("server", pair))
    for name in clients:
        stem = f"client-{name}"
        issued.append((stem, issue(authority, name, end, key=orphans[stem])))
    pems = [PemPair(stem, pair.certificate_pem(), pair.key_pem()) for stem, pair in issued]
    return write_pairs(out, pems)


def new_authority(
    days: int = AUTHORITY_DAYS,
    name: str = "aligned-vq test authority",
    key: ec.EllipticCurvePrivateKey | None = None,
) -> CertificateAndKey:
    """A self-signed authority that may not sign other authorities; `key` None generates one."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    key_id = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = (
        _builder(name, _common_name(name), key, datetime.now(UTC) + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(key_id, critical=False)
    )
    return CertificateAndKey(builder.sign(key, hashes.SHA256()), key)


def issue(
    authority: CertificateAndKey,
    name: str,
    end: datetime,
    hosts: Sequence[x509.GeneralName] = (),
    key: ec.EllipticCurvePrivateKey | None = None,
) -> CertificateAndKey:
    """A certificate for a server if there are hosts, else for a client.

    Args:
        authority: signs the certificate.
        name: common name; a client's identity.
        end: its expiry, at most the authority's.
        hosts: names and addresses of the server.
        key: private key; None generates one.
    """
    key = key or ec.generate_private_key(ec.SECP256R1())
    signer = authority.certificate
    purpose = ExtendedKeyUsageOID.SERVER_AUTH if hosts else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = (
        # Common names have at most 64 characters (RFC 5280, appendix A.1); a longer host is
        # complete among the alternative names.
        _builder(name[:64], signer.subject, key, min(end, signer.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()),
            critical=False,
        )
    )
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName(hosts), critical=False)
    return CertificateAndKey(builder.sign(authority.key, hashes.SHA256()), key)


def _builder(
    name: str, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, end: datetime
) -> x509.CertificateBuilder:
    # Small machines' clocks may be slow, and they would refuse a certificate of their future. An
    # expired one, as tests need, must start before its end.
    start = min(datetime.now(UTC), end - _CLOCK_SKEW) - _CLOCK_SKEW
    return (
        x509.CertificateBuilder()
        .subject_name(_common_name(name))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
    )


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass  # not an address, so it has to be a name
    if not re.fullmatch(r"(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", host) or len(host) > 253:
        raise ConfigError(
            f"expected hosts as names or addresses without a port, got {host!r}; correct it"
        )
    return x509.DNSName(host)


def open_authority(out: Path) -> CertificateAndKey:
    """The authority in a directory.

    Raises:
        ConfigError: there is none that can sign now.
    """
    certificate, key = (out / name for name in pair_names("ca"))
    try:
        authority = x509.load_pem_x509_certificate(certificate.read_bytes())
        secret = load_pem_private_key(key.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(
            f"expected an authority in {certificate} and {key}, got missing or unreadable files; "
            "choose another directory"
        ) from error
    if (
        not isinstance(secret, ec.EllipticCurvePrivateKey)
        or authority.public_key() != secret.public_key()
    ):
        raise ConfigError(
            f"expected the key of {certificate} in {key}, got another; choose another directory"
        )
    if authority.not_valid_after_utc <= datetime.now(UTC):
        raise ConfigError(
            f"{certificate}: expected an authority that is valid now, got an expired one; choose "
            "another directory"
        )
    return CertificateAndKey(authority, secret)
