"""The service's side of TLS: certificates from files that are read again while serving."""

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


@dataclass(frozen=True)
class Served:
    """What new connections get, taken apart."""

    pems: _Pems
    certificate: x509.Certificate
    """The service's own, without its chain."""
    authorities: tuple[x509.Certificate, ...]
    """That sign client certificates; empty: none are asked for."""


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
        self._complaint = ""
        self.served = self._checked(self._read())
        """Replaced as a whole; may be read from any thread."""
        self._given = self.served.pems

    def credentials(self) -> grpc.ServerCredentials:
        """For `add_secure_port`; keep them for as long as the server runs, gRPC does not."""
        return grpc.dynamic_ssl_server_credentials(
            self._given.configuration(),
            self.changed,  # type: ignore[arg-type]  # None is allowed: nothing changed
            require_client_authentication=self._clients is not None,
        )

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """The files' new contents, once; None if there are none that can be used. gRPC calls it
        before every handshake, from threads of its own."""
        with self._changing:
            self._refresh()
            if self._given == self.served.pems:
                return None
            self._given = self.served.pems
            return self._given.configuration()

    def refresh(self) -> None:
        """Read the files again, so that `served` is what they hold now. From any thread."""
        with self._changing:
            self._refresh()

    def _refresh(self) -> None:
        try:
            found = self._read()
            if found == self.served.pems:
                self._complaint = ""
                return
            self.served = self._checked(found)
        except ConfigError as error:
            if str(error) != self._complaint:  # once, not at every handshake
                self._complaint = str(error)
                _log.warning("the certificates in use are kept: %s", error)
            return
        self._complaint = ""
        _log.info("new connections get the certificate that %s holds now", self._certificate)

    def _read(self) -> _Pems:
        return _Pems(
            _contents(self._certificate),
            _contents(self._key),
            None if self._clients is None else _contents(self._clients),
        )

    def _checked(self, pems: _Pems) -> Served:
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
        authorities: list[x509.Certificate] = []
        if pems.clients is not None:
            assert self._clients is not None  # it was read from there
            authorities = _certificates(pems.clients, self._clients)
        return Served(pems, own, tuple(authorities))


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
