"""Client certificates: what identity and revocation need, parsed from gRPC's auth context."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID

from aligned_vq.errors import Unauthenticated
from protos.access.names import NAME_RULE, is_name

_NO_NAME = (
    f"expected a client certificate with one common name of {NAME_RULE}, got none or another; make "
    "one with `cloud-server certs` or ask the service's operator"
)


@dataclass(frozen=True)
class ClientCertificate:
    """A client certificate that the handshake has verified against the authorities."""

    name: str
    """The common name."""
    issuer: str
    """In the notation of RFC 4514."""
    serial: int
    fingerprint: str
    """SHA-256 of the DER encoding, as lower-case hex digits."""
    expires_at: float
    """In seconds since 1970."""
    chain: tuple[x509.Certificate, ...]
    """The certificate and the intermediate ones that the client sent with it."""

    def is_issued_under(self, authorities: Iterable[x509.Certificate]) -> bool:
        """Whether a chain of signatures leads from one of the authorities to it."""
        trusted, remaining = list(authorities), list(self.chain)
        # Breadth does not matter: every certificate enters `trusted` at most once, so this ends.
        while trusted:
            signer = trusted.pop()
            issued = [each for each in remaining if each == signer or _issued(each, signer)]
            if self.chain[0] in issued:
                return True
            trusted += issued
            remaining = [each for each in remaining if each not in issued]
        return False


def pem_digest(auth_context: Mapping[str, Any]) -> str:
    """SHA-256 of the client's certificate in PEM, as hex digits.

    Raises:
        Unauthenticated: the client has no certificate.
    """
    return hashlib.sha256(_pem(auth_context)).hexdigest()


def client_certificate(auth_context: Mapping[str, Any]) -> ClientCertificate:
    """The client's certificate, from gRPC's `auth_context()`.

    The name is parsed here: gRPC's `x509_common_name` is cut off at a NUL, so that a certificate
    for `alice\\0...` would pass as one for `alice`.

    Raises:
        Unauthenticated: there is no certificate, or its name is not a valid identity.
    """
    try:
        certificate = x509.load_pem_x509_certificate(_pem(auth_context))
        names = [
            each.value for each in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        ]
        chain = [
            each
            for pem in auth_context.get("x509_pem_cert_chain", ())
            for each in x509.load_pem_x509_certificates(bytes(pem))
        ]
        issuer, serial = certificate.issuer.rfc4514_string(), certificate.serial_number
    except (ValueError, x509.InvalidVersion) as error:
        raise Unauthenticated(_NO_NAME) from error
    if len(names) != 1 or not is_name(names[0]):
        raise Unauthenticated(_NO_NAME)
    return ClientCertificate(
        str(names[0]),
        issuer,
        serial,
        certificate.fingerprint(hashes.SHA256()).hex(),
        certificate.not_valid_after_utc.timestamp(),
        # First and once, as `is_issued_under` looks for chain[0].
        (certificate, *(each for each in chain if each != certificate)),
    )


def _pem(auth_context: Mapping[str, Any]) -> bytes:
    pems = auth_context.get("x509_pem_cert", ())
    if len(pems) != 1:
        raise Unauthenticated(_NO_NAME)
    return bytes(pems[0])


def _issued(certificate: x509.Certificate, signer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(signer)
    # ValueError: the names do not match. TypeError: a kind of key that is not supported.
    except (InvalidSignature, TypeError, UnsupportedAlgorithm, ValueError):
        return False
    return True
