"""The cloud half: rebuilds features from payloads and answers questions about them."""

from aligned_vq.telemetry.logs import quiet_grpc

quiet_grpc()  # read when gRPC is imported, which the modules of this package do
