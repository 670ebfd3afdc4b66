"""The cloud half: rebuilds features from payloads and answers questions about them."""

from aligned_vq.telemetry.logs import quiet_grpc

quiet_grpc()  # before the modules of this package import gRPC, which reads the variable only once
