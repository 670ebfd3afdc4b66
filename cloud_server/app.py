"""The cloud process: load the model, warm up, serve, drain."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
from collections.abc import Callable

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from aligned_vq.errors import ConfigError
from aligned_vq.telemetry.traces import open_traces
from cloud_server.access.expiry import Expiry
from cloud_server.access.gate import CANCEL_SECONDS
from cloud_server.access.identity import Identities
from cloud_server.access.interceptor import CertificateInterceptor
from cloud_server.certificates.tls import tls_files
from cloud_server.config import CloudConfig
from cloud_server.decode.served_bundles import blank_payload, served_bundles
from cloud_server.methods import Methods
from cloud_server.operations.metrics import Metrics
from cloud_server.operations.operations_http import OperationsHttp
from cloud_server.service import ServiceParts, SplitInferenceService
from cloud_server.serving_backends import Loaded, load, make_backend
from protos.address import address, is_loopback
from protos.alignedvq.v1 import inference_pb2

_log = logging.getLogger(__name__)

SERVICE_NAME: str = inference_pb2.DESCRIPTOR.services_by_name["SplitInference"].full_name
HEALTH_SECONDS = 0.5
FLUSH_SECONDS = 0.25
_MESSAGE_OVERHEAD_BYTES = 65_536
_CHANNEL_OPTIONS = (
    # Clients behind NAT ping to keep their mapping alive; by default that ends the connection.
    ("grpc.http2.min_ping_interval_without_data_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Bandwidth probing costs a ping per question, and messages are too small to benefit.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.max_receive_message_length", _MESSAGE_OVERHEAD_BYTES),
    # No decompression: payloads are already entropy coded, and inflating could exhaust memory.
    ("grpc.compression_enabled_algorithms_bitset", 1),
    ("grpc.so_reuseport", 0),  # a second server on the port must fail, not share it
)


class CloudServer:
    """The gRPC service with health checks, reflection and the operators' HTTP endpoints.

    `start` returns once it is healthy; `stop` drains it. It cannot be started again.

    Args:
        model: as `serving_backends.load` returns it.
        config: what to serve, where, and within which limits.

    Raises:
        ConfigError: a certificate or token file is unusable.
    """

    def __init__(self, model: Loaded, config: CloudConfig) -> None:
        self._config = config
        self._metrics = Metrics()
        self._traces = open_traces(config.traces, "cloud-server")
        backend = make_backend(model, config, self._metrics)
        self._engine = backend.engine
        self._decode_many = backend.decode_many
        self._warm_up_payloads = [
            payload for payload in map(blank_payload, backend.manifests) if payload
        ]
        bundles = served_bundles(
            backend.manifests, config.max_question_chars, config.max_answer_tokens
        )
        tls = tls_files(config)
        self.identities = Identities(config, tls)
        self._expiry = Expiry(tls, self.identities)
        self._expiry.register_gauges(self._metrics)
        parts = ServiceParts(
            bundles=bundles,
            decode_many=backend.decode_many,
            prompts=backend.prompts,
            engine=backend.engine,
            metrics=self._metrics,
            traces=self._traces,
            identities=self.identities,
        )
        self.service = SplitInferenceService(parts, config)
        self._gate = self.service.gate
        self._metrics.build_info(config.engine, bundles)
        self._metrics.gauge(
            "ready",
            "1 while the service accepts questions, else 0.",
            lambda: not self._unready_reason(),
        )
        self._metrics.gauge(
            "in_flight_limit",
            "Limit on questions in flight (max_in_flight).",
            lambda: config.max_in_flight,
        )
        self._health = health.aio.HealthServicer()
        self._server = grpc.aio.server(
            options=server_options(config),
            interceptors=(CertificateInterceptor(self.identities, SERVICE_NAME),),
        )
        # gRPC calls back into the credentials at every handshake but holds no reference to them.
        self._credentials = tls.credentials() if tls else None
        self._serving = False
        self._operations_http = OperationsHttp(
            self._metrics, bundles, lambda: not self._engine.lost, self._unready_reason
        )
        self._watch_tasks: list[asyncio.Task[None]] = []
        self.port = 0
        self.http_port: int | None = None

    def _unready_reason(self) -> str:
        """Why the service does not accept questions now; empty if it does."""
        if not self._serving:
            return "the service is starting or stopping"
        if not self._engine.healthy:
            return "the engine cannot answer"
        return self._expiry.unready_reason()

    async def start(self) -> int:
        """Bind, warm up, and only then report healthy. Returns the gRPC port.

        Raises:
            ConfigError: the address cannot be bound.
        """
        # Not serving until the end of the warm-up: load balancers send no question to a service
        # whose first answers would be slow.
        self._server.add_generic_rpc_handlers((self._method_handlers(),))
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        listen_address = address(self._config.host, self._config.port)
        try:
            if self._credentials is None:
                self.port = self._server.add_insecure_port(listen_address)
            else:
                self.port = self._server.add_secure_port(listen_address, self._credentials)
        except RuntimeError as error:
            raise _cannot_listen(self._config, str(error)) from error
        await self._server.start()
        self._gate.connections.start(self.port)
        if self._config.http_port is not None:
            self.http_port = await self._operations_http.start(
                self._config.http_host, self._config.http_port
            )
        for payload in self._warm_up_payloads:
            await asyncio.to_thread(self._decode_many, [payload])
        await self._engine.warm_up()
        self._serving = True
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)
        self._watch_tasks = [
            asyncio.create_task(watch) for watch in (self._watch_health(), self.identities.watch())
        ]
        return self.port

    async def stop(self) -> None:
        """Report unhealthy, send clients to other replicas, let running answers finish within
        `drain_seconds`, then close."""
        self._serving = False
        for task in self._watch_tasks:
            task.cancel()
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        # First stop accepting: clients get a GOAWAY and send their next question to another
        # replica, while running calls continue. Draining first would let new questions in.
        grace = self._config.drain_seconds + CANCEL_SECONDS
        closing = asyncio.create_task(self._server.stop(grace))
        await self.service.drain(self._config.drain_seconds)
        # Answers are complete but for their last bytes; a health watch never ends by itself.
        await self._server.stop(FLUSH_SECONDS)
        await closing
        await self._gate.connections.stop()
        await self._engine.close()
        await self.service.close()
        await asyncio.to_thread(self._traces.close)
        if self.http_port is not None:
            await self._operations_http.stop()
        # Free a server with certificates now: if the interpreter does it at exit, gRPC's threads
        # and Python wait for each other, for seconds or for ever.
        del self._server, self._credentials
        gc.collect()

    def _method_handlers(self) -> Methods:
        """The method handlers of the gRPC port."""
        methods = Methods(
            self._gate.arrivals, self._gate.connections, self._config.question_seconds
        )
        methods.add_split_inference(self.service)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, methods)
        if self._config.reflection:
            names = (SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
                reflection.aio.ReflectionServicer(names), methods
            )
        return methods

    async def _watch_health(self) -> None:
        """Keep the reported health up to date until cancelled."""
        reported = ""
        while True:
            self._expiry.check()
            # Only changes are reported, so that the log has one line per outage.
            if (reason := self._unready_reason()) != reported:
                reported = reason
                if reason:
                    _log.error("not accepting questions: %s", reason)
                else:
                    _log.info("accepting questions again")
                states = health_pb2.HealthCheckResponse
                await self._set_health(states.NOT_SERVING if reason else states.SERVING)
            await asyncio.sleep(HEALTH_SECONDS)

    async def _set_health(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for name in ("", SERVICE_NAME):
            await self._health.set(name, status)


async def serve(config: CloudConfig, announce: Callable[[int, int | None], None]) -> None:
    """Run a cloud process until SIGTERM or SIGINT.

    Args:
        config: what to serve, where, and within which limits.
        announce: called once healthy, with the gRPC port and the HTTP port (None if not served).

    Raises:
        ConfigError: the settings, the bundle or the checkpoint are unusable.
    """
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    _check_before_loading(config)
    model = await asyncio.to_thread(load, config)
    server = CloudServer(model, config)
    try:
        ports = await server.start(), server.http_port
        # The loaded model lives as long as the process: excluding it keeps collections short.
        gc.collect()
        gc.freeze()
        announce(*ports)
        await stopped.wait()
        _log.info("draining")
    finally:
        await server.stop()


def _check_before_loading(config: CloudConfig) -> None:
    """Check address, certificates and tokens before a large model is loaded.

    Raises:
        ConfigError: one of them is unusable.
    """
    Identities(config, tls_files(config))
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        socket.create_server((config.host, config.port), family=family).close()
    except OSError as error:
        raise _cannot_listen(config, error.strerror or str(error)) from error
    if not is_loopback(config.host) and config.tls_clients is None and config.tokens is None:
        _log.warning(
            "anyone who can reach %s may ask: neither tls_clients nor tokens is set", config.host
        )


def server_options(config: CloudConfig) -> tuple[tuple[str, int], ...]:
    """The gRPC server options."""
    return (
        *_CHANNEL_OPTIONS,
        # The core derives its limits on reset streams, and thus on rapid resets, from this one.
        ("grpc.max_concurrent_streams", config.stream_limit),
        # Headroom for bursts: beyond it the core closes new connections, whoever opens them.
        ("grpc.max_allowed_incoming_connections", 2 * config.connection_limit),
        ("grpc.server_handshake_timeout_ms", _milliseconds(config.handshake_seconds)),
        ("grpc.max_connection_age_ms", _milliseconds(config.max_connection_seconds)),
        ("grpc.max_connection_age_grace_ms", _milliseconds(config.connection_grace_seconds)),
    )


def _milliseconds(seconds: float) -> int:
    # gRPC's options are positive 32-bit integers.
    return min(max(1, round(1e3 * seconds)), 2**31 - 1)


def _cannot_listen(config: CloudConfig, reason: str) -> ConfigError:
    return ConfigError(
        f"expected to listen on {address(config.host, config.port)}, got: {reason}; stop the "
        "process that listens there, or choose another host or port"
    )
