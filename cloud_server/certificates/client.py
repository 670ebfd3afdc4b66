"""Client certificates as gRPC hands them over, read for what identity needs."""

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
    f"expected a client certificate with one common name of {NAME_RULE}, got another; make one "
    "with `cloud-server certs` or ask the service's operator"
)


@dataclass(frozen=True)
class ClientCertificate:
    """One that the handshake has checked against the authorities."""

    name: str
    """Its common name."""
    issuer: str
    """As RFC 4514 writes it."""
    serial: int
    fingerprint: str
    """SHA-256 of its DER form, lower-case hex digits."""
    ends: float
    """Seconds since 1970."""
    chain: tuple[x509.Certificate, ...]
    """Itself, and what the client sent with it."""

    def led_by(self, authorities: Iterable[x509.Certificate]) -> bool:
        """Do signatures lead from one of the authorities to it?"""
        trusted, rest = list(authorities), list(self.chain)
        while trusted:
            signer = trusted.pop()
            issued = [each for each in rest if each == signer or _issued(each, signer)]
            if self.chain[0] in issued:
                return True
            trusted += issued
            rest = [each for each in rest if each not in issued]
        return False


def pem_digest(auth_context: Mapping[str, Any]) -> str:
    """A name for the client's certificate; Unauthenticated: there is none."""
    return hashlib.sha256(_pem(auth_context)).hexdigest()


def client_certificate(auth_context: Mapping[str, Any]) -> ClientCertificate:
    """The client's certificate, from gRPC's `auth_context()`.

    Its own `x509_common_name` there ends at a NUL, so the name comes from the certificate.

    Raises:
        Unauthenticated: there is no certificate, or its name is not one that an identity may have.
    """
    try:
        own = x509.load_pem_x509_certificate(_pem(auth_context))
        names = [each.value for each in own.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        chain = [
            each
            for pem in auth_context.get("x509_pem_cert_chain", ())
            for each in x509.load_pem_x509_certificates(bytes(pem))
        ]
        issuer, serial = own.issuer.rfc4514_string(), own.serial_number
    except (ValueError, x509.InvalidVersion) as error:
        raise Unauthenticated(_NO_NAME) from error
    if len(names) != 1 or not is_name(names[0]):
        raise Unauthenticated(_NO_NAME)
    return ClientCertificate(
        str(names[0]),
        issuer,
        serial,
        own.fingerprint(hashes.SHA256()).hex(),
        own.not_valid_after_utc.timestamp(),
        (own, *(each for each in chain if each != own)),
    )


def _pem(auth_context: Mapping[str, Any]) -> bytes:
    found = auth_context.get("x509_pem_cert", ())
    if len(found) != 1:
        raise Unauthenticated(_NO_NAME)
    return bytes(found[0])


def _issued(certificate: x509.Certificate, signer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(signer)
    except (InvalidSignature, TypeError, UnsupportedAlgorithm, ValueError):
        return False
    return True
