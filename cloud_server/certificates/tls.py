"""The service's TLS files, which are reloaded while serving."""

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
    """The contents of the files at one moment."""

    certificate: bytes
    key: bytes = field(repr=False)
    clients: bytes | None

    def configuration(self) -> grpc.ServerCertificateConfiguration:
        """The same as gRPC's configuration."""
        return grpc.ssl_server_certificate_configuration(
            [(self.key, self.certificate)], self.clients
        )


@dataclass(frozen=True)
class TlsMaterial:
    """The material of new connections, parsed."""

    pems: _Pems
    certificate: x509.Certificate
    """The service's certificate, without its chain."""
    authorities: tuple[x509.Certificate, ...]
    """The authorities of client certificates; empty if clients need none."""


class TlsFiles:
    """Loads and reloads the TLS files of a service.

    Contents are compared, not modification times: that also detects switched symbolic links and
    survives clock jumps, and costs a few kilobytes per handshake. If files are unusable, or only
    some of them have been replaced, the previous material stays in use.

    Args:
        certificate: PEM file of the certificate and its chain.
        key: PEM file of its key.
        clients: PEM file of the authorities of client certificates; None requires none.

    Raises:
        ConfigError: a file is unreadable or unusable, or they do not belong together.
    """

    def __init__(self, certificate: Path, key: Path, clients: Path | None = None) -> None:
        self._certificate = certificate
        self._key = key
        self._clients = clients
        self._lock = threading.Lock()
        self._last_error = ""
        self.current = self._parse(self._read())
        """Replaced as a whole, so that any thread may read it without a lock."""
        self._delivered = self.current.pems

    def credentials(self) -> grpc.ServerCredentials:
        """For `add_secure_port`. Keep a reference while the server runs: gRPC holds none."""
        return grpc.dynamic_ssl_server_credentials(
            self._delivered.configuration(),
            self.new_configuration,  # type: ignore[arg-type]  # None is allowed: nothing changed
            require_client_authentication=self._clients is not None,
        )

    def new_configuration(self) -> grpc.ServerCertificateConfiguration | None:
        """The new configuration, once after each change; None if there is no usable change. gRPC
        calls it from its threads before every handshake."""
        with self._lock:
            self._reload()
            # `reload` may have replaced `current` already, so compare with what gRPC got last.
            if self._delivered == self.current.pems:
                return None
            self._delivered = self.current.pems
            return self._delivered.configuration()

    def reload(self) -> None:
        """Read the files again, from any thread, and update `current` if they are usable."""
        with self._lock:
            self._reload()

    def _reload(self) -> None:
        try:
            pems = self._read()
            if pems == self.current.pems:
                self._last_error = ""
                return
            self.current = self._parse(pems)
        except ConfigError as error:
            if str(error) != self._last_error:  # log it once, not at every handshake
                self._last_error = str(error)
                _log.warning("the previous certificates stay in use: %s", error)
            return
        self._last_error = ""
        _log.info("new connections use the replaced certificate in %s", self._certificate)

    def _read(self) -> _Pems:
        return _Pems(
            _read_file(self._certificate),
            _read_file(self._key),
            None if self._clients is None else _read_file(self._clients),
        )

    def _parse(self, pems: _Pems) -> TlsMaterial:
        """The parsed material.

        Raises:
            ConfigError: a handshake with it could not succeed.
        """
        certificate = _certificates(pems.certificate, self._certificate)[0]
        try:
            key = load_pem_private_key(pems.key, None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise ConfigError(
                f"{self._key}: expected a private key in PEM without a passphrase, got something "
                "else; put the certificate's key there"
            ) from error
        if certificate.public_key() != key.public_key():
            raise ConfigError(
                f"expected the key of {self._certificate}, got another one in {self._key}; use a "
                "certificate and key that belong together"
            )
        if certificate.not_valid_after_utc <= datetime.now(UTC):
            raise ConfigError(
                f"{self._certificate}: expected a certificate that is valid now, got one that "
                f"ended {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC; make a new one"
            )
        authorities: list[x509.Certificate] = []
        if pems.clients is not None:
            assert self._clients is not None  # it was read from there
            authorities = _certificates(pems.clients, self._clients)
        return TlsMaterial(pems, certificate, tuple(authorities))


def tls_files(config: CloudConfig) -> TlsFiles | None:
    """The TLS files of the settings; None without TLS.

    Raises:
        ConfigError: as `TlsFiles`.
    """
    if config.tls_certificate is None or config.tls_key is None:
        return None
    return TlsFiles(config.tls_certificate, config.tls_key, config.tls_clients)


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{path}: expected a PEM file, got: {error.strerror}; check the path and permissions"
        ) from error


def _certificates(pem: bytes, path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise ConfigError(
            f"{path}: expected certificates in PEM, got something else; put the certificate there"
        ) from error
