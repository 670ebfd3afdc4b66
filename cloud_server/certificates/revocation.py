"""Maintains the authority's CRL, for `cloud-server certs --revoke`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from aligned_vq.errors import ConfigError
from aligned_vq.files.atomic_file import write_file
from cloud_server.certificates.issuing import CertificateAndKey, open_authority

FILE_NAME = "refused.pem"


def revoke(out: Path, clients: Sequence[str], days: int) -> Path:
    """Add the certificates of clients to `refused.pem`, the CRL of the authority in a directory.

    A certificate issued later to the same client has another serial number and is valid.

    Args:
        out: directory with the authority and `client-NAME.pem` of each client.
        clients: identities of the clients.
        days: until the CRL is due to be renewed; its entries stay refused after that.

    Returns:
        The path of the CRL, for `cloud-server serve --tls_refused`.

    Raises:
        ConfigError: the authority, a certificate or the present CRL is unusable, or the file cannot
            be written; it is then unchanged.
    """
    authority = open_authority(out)
    path = out / FILE_NAME
    now = datetime.now(UTC)
    number, entries = _read(path, authority)
    for name in clients:
        serial = _serial(out / f"client-{name}.pem", authority)
        # An earlier entry keeps its date of revocation.
        if serial not in entries:
            entries[serial] = (
                x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
            )
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.certificate.subject)
        .last_update(now)
        .next_update(now + timedelta(days=days))
        # Numbers increase with every CRL of an authority (RFC 5280, 5.2.3).
        .add_extension(x509.CRLNumber(number + 1), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()),
            critical=False,
        )
    )
    # All of them: a CRL replaces the one before as a whole.
    for entry in entries.values():
        builder = builder.add_revoked_certificate(entry)
    _replace(path, builder.sign(authority.key, hashes.SHA256()).public_bytes(Encoding.PEM))
    return path


def _read(
    path: Path, authority: CertificateAndKey
) -> tuple[int, dict[int, x509.RevokedCertificate]]:
    """The number and entries, by serial number, of the present CRL; 0 and none without one."""
    try:
        crl = x509.load_pem_x509_crl(path.read_bytes())
        # Another authority's file must not be overwritten.
        if not crl.is_signature_valid(authority.key.public_key()):
            raise ValueError("signed by another authority")
        number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        return number, {entry.serial_number: entry for entry in crl}
    except FileNotFoundError:
        return 0, {}
    except (OSError, ValueError, x509.ExtensionNotFound) as error:
        raise ConfigError(
            f"{path}: expected the authority's CRL, got another or a damaged one; move it away, or "
            "restore the one that was written here"
        ) from error


def _serial(path: Path, authority: CertificateAndKey) -> int:
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        certificate.verify_directly_issued_by(authority.certificate)
    except Exception as error:
        raise ConfigError(
            f"{path}: expected a certificate that this directory's authority signed, got none; "
            "name the client as when its certificate was issued"
        ) from error
    return certificate.serial_number


def _replace(path: Path, data: bytes) -> None:
    try:
        write_file(path, data)
    except OSError as error:
        raise ConfigError(
            f"expected to write {path}, got: {error.strerror}; check free space and permissions"
        ) from error
