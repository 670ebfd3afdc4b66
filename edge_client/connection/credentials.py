"""How a client shows who it is, and how it knows the service: files and token, checked and read.

Free of torch, as the transport is.
"""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from aligned_vq.errors import ConfigError
from edge_client.config import EdgeConfig
from protos.address import host_of, is_loopback

TOKEN_VARIABLE = "AVQ_EDGE_TOKEN"

Options = tuple[tuple[str, int | str], ...]

_REASONS = (
    (
        "Hostname Verification",
        "the certificate there is for another name: check the address, or give server_name",
    ),
    ("certificate has expired", "the certificate there has expired: the service needs a new one"),
    (
        "certificate is not yet valid",
        "the certificate there is not valid yet: check the clock of this machine",
    ),
    (
        "CERTIFICATE_VERIFY_FAILED",
        "the certificate there is from an authority that is not trusted here: check ca",
    ),
    ("WRONG_VERSION_NUMBER", "what is there speaks no TLS: check the address, or leave tls out"),
)
_CLOSED = ("Socket closed", "Connection reset", "End of TCP stream", "Broken pipe")
_CLOSED_TLS = (
    "the connection was closed during the TLS handshake, as by a service that refuses a client's "
    "certificate: check that certificate and key are given, not expired, and from its authority"
)
_CLOSED_PLAIN = (
    "the connection was closed at once, as by a service that wants TLS: try tls, with its ca, or "
    "check the address"
)


@dataclass(frozen=True)
class Credentials:
    """What `read_credentials` found. Neither key nor token is in its `repr`."""

    tls: bool = False
    ca: bytes | None = None
    certificate: bytes | None = None
    key: bytes | None = field(default=None, repr=False)
    server_name: str | None = None
    token: str | None = field(default=None, repr=False)

    def channel(self, target: str, options: Options) -> grpc.Channel:
        """A channel to the service.

        Raises:
            ConfigError: a token would leave this machine in the clear.
        """
        if self.tls:
            secret = grpc.ssl_channel_credentials(self.ca, self.key, self.certificate)
            named = (("grpc.ssl_target_name_override", self.server_name),)
            extra = named if self.server_name is not None else ()
            return grpc.secure_channel(target, secret, options=(*options, *extra))
        if self.token is not None and not is_loopback(host_of(target)):
            raise ConfigError(
                f"expected TLS to send a token to {target}, got tls=False; give tls, or no token"
            )
        return grpc.insecure_channel(target, options=options)

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What every call says about its client."""
        return () if self.token is None else (("authorization", f"Bearer {self.token}"),)

    def reason(self, details: str) -> str:
        """gRPC's details of a failed handshake in words; empty if they tell of none."""
        for mark, words in _REASONS:
            if mark in details:
                return words
        if any(mark in details for mark in _CLOSED):
            return _CLOSED_TLS if self.tls else _CLOSED_PLAIN
        return ""


def read_credentials(config: EdgeConfig) -> Credentials:
    """Certificates and token of a client, from its files or, the token, the environment.

    Raises:
        ConfigError: a file cannot be read or used, or certificate and key do not fit together.
    """
    if config.tls:
        _check(config)
    return Credentials(
        config.tls,
        _contents(config.ca),
        _contents(config.certificate),
        _contents(config.key),
        config.server_name,
        read_token(config.token_file, TOKEN_VARIABLE),
    )


def _check(config: EdgeConfig) -> None:
    """gRPC takes any bytes and fails at the handshake, without saying why."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if config.ca is not None:
            context.load_verify_locations(config.ca)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"ca: expected a PEM file with an authority's certificate, got {config.ca} "
            f"({_words(error)}); copy the service's ca.pem here"
        ) from error
    try:
        if config.certificate is not None and config.key is not None:
            # Without a password given, OpenSSL would ask for one at the terminal.
            context.load_cert_chain(config.certificate, config.key, password="")
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"expected a certificate and its own key in PEM, got {config.certificate} and "
            f"{config.key} ({_words(error)}); give the pair that was made together"
        ) from error


def _words(error: OSError) -> str:
    return (
        (getattr(error, "reason", None) or error.strerror or "unusable").replace("_", " ").lower()
    )


def _contents(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{path}: expected a file, got: {error.strerror}; check the path and who may read it"
        ) from error


def read_token(path: Path | None, variable: str) -> str | None:
    """A secret from the file if there is one, else from the environment: command lines are seen by
    all. None: from neither.

    Raises:
        ConfigError: the file cannot be read, or holds something else.
    """
    source = f"${variable}" if path is None else str(path)
    if path is None:
        text = os.environ.get(variable)
    else:
        text = (_contents(path) or b"").decode("ascii", "replace")
    if text is None:
        return None
    token = text.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(
            f"{source}: expected a token, one word of plain ASCII, got something else; write the "
            "token there, alone"
        )
    return token
