"""Options and files with which client and service secure the link between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cloud_server.certificates import issuing
from protos.access import tokens

LinkSecurity = Literal["plain", "tls", "mtls", "token"]
"""Without TLS, with TLS, with certificates on both sides, or with TLS and a bearer token."""
CLIENT = "camera-1"


@dataclass(frozen=True)
class SecuredLink:
    """The options of both sides of a link."""

    service: tuple[str, ...] = ()
    """Command-line options of the service."""
    client: Mapping[str, Path | bool] = field(default_factory=dict)
    """Fields of an `EdgeConfig`, which are also options of `edge-client`."""
    folder: Path | None = None
    """The folder with the certificates of the authority and the service; None without TLS."""

    @property
    def client_options(self) -> tuple[str, ...]:
        """`client` as command-line options of `edge-client`."""
        return tuple(f"--{name}={value}" for name, value in self.client.items())


def secured_link(security: LinkSecurity, folder: Path) -> SecuredLink:
    """The options of both sides; writes certificates, keys and tokens to `folder`."""
    if security == "plain":
        return SecuredLink()
    # With a client's certificate in any case; only mutual TLS uses it.
    issuing.make(folder, None, [CLIENT])
    service = [
        f"--tls_certificate={folder / 'server.pem'}",
        f"--tls_key={folder / 'server-key.pem'}",
    ]
    client: dict[str, Path | bool] = {"tls": True, "ca": folder / "ca.pem"}
    if security == "mtls":
        service.append(f"--tls_clients={folder / 'ca.pem'}")
        client["certificate"] = folder / f"client-{CLIENT}.pem"
        client["key"] = folder / f"client-{CLIENT}-key.pem"
    elif security == "token":
        client["token_file"] = token_file = folder / "token"
        (folder / "tokens.yaml").write_text(tokens.make(CLIENT, token_file) + "\n")
        service.append(f"--tokens={folder / 'tokens.yaml'}")
    return SecuredLink(tuple(service), client, folder)
