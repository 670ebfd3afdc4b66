"""The cloud half: rebuilds features from payloads and answers questions about them.

Public names load on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aligned_vq.public_names import lazy_names
from aligned_vq.telemetry.logs import quiet_grpc

if TYPE_CHECKING:
    from cloud_server.app import CloudServer, serve
    from cloud_server.config import CloudConfig
    from cloud_server.serving_backends import load

__all__ = [
    "CloudConfig",
    "CloudServer",
    "load",
    "serve",
]

quiet_grpc()  # read when gRPC is imported, which the modules of this package do

_HOMES = {
    "CloudConfig": "cloud_server.config",
    "CloudServer": "cloud_server.app",
    "load": "cloud_server.serving_backends",
    "serve": "cloud_server.app",
}

__getattr__ = lazy_names(__name__, _HOMES)
