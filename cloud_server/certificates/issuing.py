"""A test authority with a server's and clients' certificates, for `cloud-server certs`.

Good for trials and for a handful of machines. Its key lies beside the certificates without a
passphrase: whoever reads it can make themselves any client.
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
from cloud_server.certificates.pem_files import PemPair, key_pem, lone_key, pair_names, write_pairs

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
        """The certificate as a file holds it."""
        return self.certificate.public_bytes(Encoding.PEM)

    def key_pem(self) -> bytes:
        """The key as a file holds it, without a passphrase."""
        return key_pem(self.key)


def make(
    out: Path, hosts: Sequence[str] | None, clients: Sequence[str] = (), days: int = 365
) -> list[Path]:
    """Write what is missing: `ca.pem`, `server.pem` and a certificate for each client, each with a
    `-key.pem` beside it that only its owner may read. An authority that is there signs the others.

    All of it is written at once where there was nothing. Into a directory that holds files already
    come whole pairs, each key before its certificate; a key that a kill left without one gets one.

    Args:
        out: directory; made if it is missing.
        hosts: names and addresses of the service; None: localhost, or no new server certificate
            where there is one.
        clients: identities.
        days: until the new certificates end; the authority's own end is theirs at the latest.

    Returns:
        The files written.

    Raises:
        ConfigError: a file is there already (nothing was written then), or an argument or the
            authority cannot be used.
    """
    if days < 1:
        raise ConfigError(f"expected at least one day, got {days}; ask for more")
    if hosts is None and not (out / "server.pem").exists():
        hosts = DEFAULT_HOSTS
    alternatives = [_alternative(host) for host in hosts or ()]
    clients = tuple(dict.fromkeys(clients))
    for name in clients:
        if not _NAME.fullmatch(name) or name.endswith("-key"):  # the files of keys end so
            raise ConfigError(
                "expected names of clients of 1 to 64 letters, digits, dots, dashes and "
                f"underscores, not ending in -key, got {name!r}; choose another"
            )
    stems = [*(["server"] if alternatives else []), *(f"client-{name}" for name in clients)]
    old = all((out / name).exists() for name in pair_names("ca"))
    lone = {stem: lone_key(out, stem) for stem in (stems if old else ["ca", *stems])}
    authority = (
        open_authority(out) if old else new_authority(max(days, AUTHORITY_DAYS), key=lone["ca"])
    )
    end = datetime.now(UTC) + timedelta(days=days)
    made = [] if old else [("ca", authority)]
    if alternatives:
        first = (hosts or ("",))[0]
        pair = issue(authority, first, end, alternatives, key=lone["server"])
        made.append(("server", pair))
    for name in clients:
        stem = f"client-{name}"
        made.append((stem, issue(authority, name, end, key=lone[stem])))
    pems = [PemPair(stem, pair.certificate_pem(), pair.key_pem()) for stem, pair in made]
    return write_pairs(out, pems)


def new_authority(
    days: int = AUTHORITY_DAYS,
    name: str = "aligned-vq test authority",
    key: ec.EllipticCurvePrivateKey | None = None,
) -> CertificateAndKey:
    """An authority that signs itself; it may sign no other authority. `key`: None draws one."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = (
        _builder(name, _named(name), key, datetime.now(UTC) + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(own, critical=False)
    )
    return CertificateAndKey(builder.sign(key, hashes.SHA256()), key)


def issue(
    authority: CertificateAndKey,
    name: str,
    end: datetime,
    hosts: Sequence[x509.GeneralName] = (),
    key: ec.EllipticCurvePrivateKey | None = None,
) -> CertificateAndKey:
    """A certificate with this common name: a server's where there are hosts, else a client's.

    Args:
        authority: signs it.
        name: what it is called; of a client its identity.
        end: when it ends; the authority's own end if that is earlier.
        hosts: where the server is found.
        key: of the certificate; None draws one.
    """
    key = key or ec.generate_private_key(ec.SECP256R1())
    signer = authority.certificate
    purpose = ExtendedKeyUsageOID.SERVER_AUTH if hosts else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = (
        _builder(name[:64], signer.subject, key, min(end, signer.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
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
    # Clocks of small machines are late; a certificate in their future would be refused. One that
    # has ended, as tests want it, must have begun before.
    start = min(datetime.now(UTC), end - _CLOCK_SKEW) - _CLOCK_SKEW
    return (
        x509.CertificateBuilder()
        .subject_name(_named(name))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
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


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    if not re.fullmatch(r"(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", host) or len(host) > 253:
        raise ConfigError(
            f"expected hosts as names or addresses without a port, got {host!r}; mend it"
        )
    return x509.DNSName(host)


def open_authority(out: Path) -> CertificateAndKey:
    """The authority in a directory; ConfigError: there is none that can sign now."""
    certificate, key = (out / name for name in pair_names("ca"))
    try:
        authority = x509.load_pem_x509_certificate(certificate.read_bytes())
        secret = load_pem_private_key(key.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(
            f"expected an authority in {certificate} and {key}, got files that cannot be read as "
            "one; choose another directory"
        ) from error
    if (
        not isinstance(secret, ec.EllipticCurvePrivateKey)
        or authority.public_key() != secret.public_key()
    ):
        raise ConfigError(
            f"expected the authority's key in {key}, got another; choose another directory"
        )
    if authority.not_valid_after_utc <= datetime.now(UTC):
        raise ConfigError(
            f"{certificate}: expected an authority that is valid now, got one that ended; choose "
            "another directory"
        )
    return CertificateAndKey(authority, secret)
