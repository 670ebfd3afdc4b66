"""How a link between client and service is secured: what each side is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cloud_server.certificates import issuing
from protos.access import tokens

Link = Literal["plain", "tls", "mtls", "token"]
"""Nothing, TLS, TLS with certificates on both sides, or TLS and a bearer token."""
CLIENT = "camera-1"


@dataclass(frozen=True)
class Secured:
    """Both sides of a link; a `folder` has the authority's and the service's certificates."""

    service: tuple[str, ...] = ()
    """Options of a service's command."""
    client: Mapping[str, Path | bool] = field(default_factory=dict)
    """Fields of an `EdgeConfig`, which are also options of `edge-client`."""
    folder: Path | None = None

    @property
    def client_options(self) -> tuple[str, ...]:
        """The same as options."""
        return tuple(f"--{name}={value}" for name, value in self.client.items())


def secured(link: Link, folder: Path) -> Secured:
    """What both sides need, its files made in `folder`."""
    if link == "plain":
        return Secured()
    issuing.make(folder, None, [CLIENT])
    service = [
        f"--tls_certificate={folder / 'server.pem'}",
        f"--tls_key={folder / 'server-key.pem'}",
    ]
    client: dict[str, Path | bool] = {"tls": True, "ca": folder / "ca.pem"}
    if link == "mtls":
        service.append(f"--tls_clients={folder / 'ca.pem'}")
        client["certificate"] = folder / f"client-{CLIENT}.pem"
        client["key"] = folder / f"client-{CLIENT}-key.pem"
    elif link == "token":
        client["token_file"] = own = folder / "token"
        (folder / "tokens.yaml").write_text(tokens.make(CLIENT, own) + "\n")
        service.append(f"--tokens={folder / 'tokens.yaml'}")
    return Secured(tuple(service), client, folder)
