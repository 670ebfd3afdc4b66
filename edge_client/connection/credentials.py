"""TLS certificates and token of a client, read from files and the environment and validated.

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

_HANDSHAKE_ADVICE = (
    (
        "Hostname Verification",
        "the service's certificate is for another name: check the address, or give server_name",
    ),
    (
        "certificate has expired",
        "the service's certificate has expired: it needs a new one",
    ),
    (
        "certificate is not yet valid",
        "the service's certificate is not valid yet: check the clock of this machine",
    ),
    (
        "CERTIFICATE_VERIFY_FAILED",
        "the service's certificate is from an authority that is not trusted here: check ca",
    ),
    (
        "WRONG_VERSION_NUMBER",
        "the service at that address does not speak TLS: check the address, or leave tls out",
    ),
)
"""By a phrase in gRPC's details. The first match counts: details with a more specific reason
contain CERTIFICATE_VERIFY_FAILED as well."""
# gRPC reports no more than these when the service closes the connection, as it does after rejecting
# a client's certificate.
_CLOSED = ("Socket closed", "Connection reset", "End of TCP stream", "Broken pipe")
_CLOSED_TLS = (
    "the connection was closed during the TLS handshake, as by a service that rejects the client's "
    "certificate: check that certificate and key are given, not expired, and from its authority"
)
_CLOSED_PLAIN = (
    "the connection was closed at once, as by a service that requires TLS: try tls, with its ca, "
    "or check the address"
)


@dataclass(frozen=True)
class Credentials:
    """A client's credentials; PEM files as bytes. Neither key nor token is in the `repr`."""

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
            tls = grpc.ssl_channel_credentials(self.ca, self.key, self.certificate)
            if self.server_name is not None:
                options = (*options, ("grpc.ssl_target_name_override", self.server_name))
            return grpc.secure_channel(target, tls, options=options)
        # Unencrypted, a token may only travel within this machine.
        if self.token is not None and not is_loopback(host_of(target)):
            raise ConfigError(
                f"expected TLS to send a token to {target}, got tls=False; give tls, or no token"
            )
        return grpc.insecure_channel(target, options=options)

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Metadata of every call: the token, if there is one."""
        return () if self.token is None else (("authorization", f"Bearer {self.token}"),)

    def advice(self, details: str) -> str:
        """What went wrong and what to do, by gRPC's details of a failed handshake; else empty."""
        for phrase, advice in _HANDSHAKE_ADVICE:
            if phrase in details:
                return advice
        if any(phrase in details for phrase in _CLOSED):
            return _CLOSED_TLS if self.tls else _CLOSED_PLAIN
        return ""


def read_credentials(config: EdgeConfig) -> Credentials:
    """The credentials that a config names; the token may come from the environment.

    Raises:
        ConfigError: a file cannot be read or used, or the key is not the certificate's.
    """
    if config.tls:
        _check_certificates(config)
    return Credentials(
        config.tls,
        _contents(config.ca),
        _contents(config.certificate),
        _contents(config.key),
        config.server_name,
        read_token(config.token_file, TOKEN_VARIABLE),
    )


def _check_certificates(config: EdgeConfig) -> None:
    """ConfigError unless OpenSSL accepts the files; gRPC would take any bytes, and fail at the
    handshake without a reason."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if config.ca is not None:
            context.load_verify_locations(config.ca)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"ca: expected a PEM file with an authority's certificate, got {config.ca} "
            f"({_reason(error)}); copy the service's ca.pem here"
        ) from error
    try:
        if config.certificate is not None and config.key is not None:
            # Without a password, OpenSSL would prompt for one at the terminal.
            context.load_cert_chain(config.certificate, config.key, password="")
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"expected a certificate and its private key in PEM, got {config.certificate} and "
            f"{config.key} ({_reason(error)}); give the pair that was made together"
        ) from error


def _reason(error: OSError) -> str:
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
            f"{path}: expected a readable file, got: {error.strerror}; check path and permissions"
        ) from error


def read_token(path: Path | None, variable: str) -> str | None:
    """A secret from a file or else an environment variable; None if neither is set.

    Never from the command line, which every user of a machine can read.

    Args:
        path: the file, if there is one.
        variable: name of the environment variable.

    Raises:
        ConfigError: the file cannot be read, or the text is not a token.
    """
    source = f"${variable}" if path is None else str(path)
    if path is None:
        text = os.environ.get(variable)
    else:
        text = (_contents(path) or b"").decode("ascii", "replace")
    if text is None:
        return None
    token = text.strip()  # editors end files with a newline
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(
            f"{source}: expected a token, one word of printable ASCII, got something else; put "
            "only the token there"
        )
    return token
