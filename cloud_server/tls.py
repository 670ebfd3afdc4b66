"""The service's side of TLS: certificates from files, read again for every new connection."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from aligned_vq.errors import ConfigError
from cloud_server.config import CloudConfig

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Pems:
    """What the files held at one moment."""

    certificate: bytes
    key: bytes = field(repr=False)
    clients: bytes | None

    def configuration(self) -> grpc.ServerCertificateConfiguration:
        """gRPC's form of it."""
        return grpc.ssl_server_certificate_configuration(
            [(self.key, self.certificate)], self.clients
        )


class TlsFiles:
    """The files behind a service's TLS, and what it serves of them.

    The contents are compared, not the times: links that are switched and clocks that jump are seen
    too, and it is a few kilobytes beside a handshake. Files that cannot be used, or of which only
    some were replaced so far, leave the service with what it had.

    Args:
        certificate: PEM of the certificate and its chain.
        key: PEM of its key.
        clients: PEM of the authority that signs client certificates; None asks for none.

    Raises:
        ConfigError: a file cannot be read or used, or they do not fit together.
    """

    def __init__(self, certificate: Path, key: Path, clients: Path | None = None) -> None:
        self._certificate = certificate
        self._key = key
        self._clients = clients
        self._changing = threading.Lock()
        self._served = self._read()
        self._complaint = ""
        self._check(self._served)

    def credentials(self) -> grpc.ServerCredentials:
        """For `add_secure_port`; keep them for as long as the server runs, gRPC does not."""
        return grpc.dynamic_ssl_server_credentials(
            self._served.configuration(),
            self.changed,  # type: ignore[arg-type]  # None is allowed: nothing changed
            require_client_authentication=self._clients is not None,
        )

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """The files' new contents, once; None if there are none that can be used. gRPC calls it
        before every handshake, from threads of its own."""
        with self._changing:
            try:
                found = self._read()
                if found == self._served:
                    self._complaint = ""
                    return None
                self._check(found)
            except ConfigError as error:
                if str(error) != self._complaint:  # once, not at every handshake
                    self._complaint = str(error)
                    _log.warning("the certificates in use are kept: %s", error)
                return None
            self._served, self._complaint = found, ""
            _log.info("new connections get the certificate that %s holds now", self._certificate)
            return found.configuration()

    def _read(self) -> _Pems:
        return _Pems(
            _contents(self._certificate),
            _contents(self._key),
            None if self._clients is None else _contents(self._clients),
        )

    def _check(self, pems: _Pems) -> None:
        """ConfigError unless a handshake with them can succeed."""
        own = _certificates(pems.certificate, self._certificate)[0]
        try:
            key = load_pem_private_key(pems.key, None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise ConfigError(
                f"{self._key}: expected a private key in PEM without a passphrase, got something "
                "else; write the key of the certificate there"
            ) from error
        if own.public_key() != key.public_key():
            raise ConfigError(
                f"expected the key of {self._certificate}, got another in {self._key}; put the "
                "pair there that was made together"
            )
        if own.not_valid_after_utc <= datetime.now(UTC):
            raise ConfigError(
                f"{self._certificate}: expected a certificate that is valid now, got one that "
                f"ended {own.not_valid_after_utc:%Y-%m-%d %H:%M} UTC; make a new one"
            )
        if pems.clients is not None:
            assert self._clients is not None  # it was read from there
            _certificates(pems.clients, self._clients)


def tls_files(config: CloudConfig) -> TlsFiles | None:
    """The files that the settings name; None without TLS.

    Raises:
        ConfigError: as `TlsFiles` says.
    """
    if config.tls_certificate is None or config.tls_key is None:
        return None
    return TlsFiles(config.tls_certificate, config.tls_key, config.tls_clients)


def _contents(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{path}: expected a PEM file, got: {error.strerror}; check the path, and who may read "
            "it"
        ) from error


def _certificates(pem: bytes, path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise ConfigError(
            f"{path}: expected certificates in PEM, got something else; write the certificate there"
        ) from error
