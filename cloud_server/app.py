"""A cloud process: load, warm up, serve, drain."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
from collections.abc import Callable, Sequence

import grpc
import numpy as np
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from aligned_vq import __version__
from aligned_vq.bitstream import max_body_bytes, pack
from aligned_vq.codec.manifest import SplitManifest
from aligned_vq.errors import ConfigError
from aligned_vq.telemetry.traces import open_traces
from aligned_vq.types import Encoded, Payload, StageIndices
from cloud_server.access.expiry import Expiry
from cloud_server.access.gate import CUT_OFF_SECONDS
from cloud_server.access.identity import Identities
from cloud_server.access.interceptor import CertificateInterceptor
from cloud_server.certificates.tls import tls_files
from cloud_server.config import CloudConfig
from cloud_server.decode.incoming import ServedBundle
from cloud_server.methods import Methods
from cloud_server.operations.metrics import Metrics
from cloud_server.operations.operations_http import OperationsHttp
from cloud_server.service import ServiceParts, SplitInferenceService
from cloud_server.serving_backends import Loaded, load, make_backend
from protos.address import address, is_loopback
from protos.alignedvq.v1 import inference_pb2
from protos.messages import ServiceInfo

_log = logging.getLogger(__name__)

SERVICE_NAME: str = inference_pb2.DESCRIPTOR.services_by_name["SplitInference"].full_name
WATCH_SECONDS = 0.5
FLUSH_SECONDS = 0.25
_MESSAGE_OVERHEAD_BYTES = 65_536
_CHANNEL_OPTIONS = (
    # A camera behind NAT pings to keep its mapping; the default would close the connection.
    ("grpc.http2.min_ping_interval_without_data_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Measures the link with a ping for each question; what comes is too little to gain by it.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.max_receive_message_length", _MESSAGE_OVERHEAD_BYTES),
    # Payloads are entropy coded, and a message that is inflated first may be anything.
    ("grpc.compression_enabled_algorithms_bitset", 1),
    ("grpc.so_reuseport", 0),  # a second server on the port must fail, not share it
)


class CloudServer:
    """One service on one port. `start` returns once it is healthy; `stop` drains it, once
    and for all.

    Raises:
        ConfigError: the files of certificates or tokens cannot be used.
    """

    def __init__(self, model: Loaded, config: CloudConfig) -> None:
        self._config = config
        self._metrics = Metrics()
        self._traces = open_traces(config.traces, "cloud-server")
        backend = make_backend(model, config, self._metrics)
        self._engine = backend.engine
        self._decode_many = backend.decode_many
        self._warm_up_payloads = [own for own in map(_blank_payload, backend.manifests) if own]
        bundles = _served(backend.manifests, config)
        tls = tls_files(config)
        self.identities = Identities(config, tls)
        self._expiry = Expiry(tls, self.identities)
        self._expiry.add_to(self._metrics)
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
            "ready", "1 while questions may come, else 0.", lambda: not self.trouble()
        )
        self._metrics.gauge(
            "in_flight_limit",
            "Questions that may be in flight: max_in_flight.",
            lambda: config.max_in_flight,
        )
        self._health = health.aio.HealthServicer()
        self._server = grpc.aio.server(
            options=server_options(config),
            interceptors=(CertificateInterceptor(self.identities, SERVICE_NAME),),
        )
        # Held here: gRPC calls back into it at every handshake without keeping it alive.
        self._credentials = tls.credentials() if tls else None
        self._serving = False
        self._http = OperationsHttp(
            self._metrics, bundles, lambda: not self._engine.lost, self.trouble
        )
        self._watching: list[asyncio.Task[None]] = []
        self.port = 0
        self.http_port: int | None = None

    def trouble(self) -> str:
        """Why questions may not come now; empty where they may."""
        if not self._serving:
            return "the service starts or stops"
        if not self._engine.healthy:
            return "the engine cannot answer"
        return self._expiry.trouble()

    async def start(self) -> int:
        """Bind, warm up, and only then report healthy; returns the port.

        Raises:
            ConfigError: the address cannot be bound.
        """
        self._server.add_generic_rpc_handlers((self._methods(),))
        await self._report(health_pb2.HealthCheckResponse.NOT_SERVING)
        listen_at = address(self._config.host, self._config.port)
        try:
            if self._credentials is None:
                self.port = self._server.add_insecure_port(listen_at)
            else:
                self.port = self._server.add_secure_port(listen_at, self._credentials)
        except RuntimeError as error:
            raise _cannot_listen(self._config, str(error)) from error
        await self._server.start()
        self._gate.connections.start(self.port)
        if self._config.http_port is not None:
            self.http_port = await self._http.start(self._config.http_host, self._config.http_port)
        for payload in self._warm_up_payloads:
            await asyncio.to_thread(self._decode_many, [payload])
        await self._engine.warm_up()
        self._serving = True
        await self._report(health_pb2.HealthCheckResponse.SERVING)
        self._watching = [
            asyncio.create_task(each) for each in (self._watch(), self.identities.watch())
        ]
        return self.port

    async def stop(self) -> None:
        """Report unhealthy, send clients elsewhere, let running answers finish within the drain
        time, then close."""
        self._serving = False
        for each in self._watching:
            each.cancel()
        await self._report(health_pb2.HealthCheckResponse.NOT_SERVING)
        # Tells clients to connect anew, so that their next question goes to another replica, and
        # takes no more connections; calls that run go on.
        grace = self._config.drain_seconds + CUT_OFF_SECONDS
        closing = asyncio.create_task(self._server.stop(grace))
        await self.service.drain(self._config.drain_seconds)
        # Our own calls are done but for their last bytes; a health watcher's never ends by itself.
        await self._server.stop(FLUSH_SECONDS)
        await closing
        await self._gate.connections.stop()
        await self._engine.close()
        await self.service.close()
        await asyncio.to_thread(self._traces.close)
        if self.http_port is not None:
            await self._http.stop()
        # A server with certificates that is freed only when the interpreter ends makes gRPC's
        # threads and Python wait for each other, for seconds or for ever.
        del self._server, self._credentials
        gc.collect()

    def _methods(self) -> Methods:
        """What the gRPC port serves."""
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

    async def _watch(self) -> None:
        """Report whether questions may come, until the service stops."""
        told = ""
        while True:
            self._expiry.check()
            if (why := self.trouble()) != told:
                told = why
                if why:
                    _log.error("no questions are taken: %s", why)
                else:
                    _log.info("questions are taken again")
                states = health_pb2.HealthCheckResponse
                await self._report(states.NOT_SERVING if why else states.SERVING)
            await asyncio.sleep(WATCH_SECONDS)

    async def _report(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for name in ("", SERVICE_NAME):
            await self._health.set(name, status)


async def serve(config: CloudConfig, announce: Callable[[int, int | None], None]) -> None:
    """Run a cloud process until SIGTERM or SIGINT; `announce` is told its ports, of gRPC and of
    HTTP (None: not asked for), once healthy."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stopped.set)
    _check_before_loading(config)
    model = await asyncio.to_thread(load, config)
    server = CloudServer(model, config)
    try:
        ports = await server.start(), server.http_port
        # What was loaded stays: a look through all of it for garbage would stop every question.
        gc.collect()
        gc.freeze()
        announce(*ports)
        await stopped.wait()
        _log.info("draining")
    finally:
        await server.stop()


def _check_before_loading(config: CloudConfig) -> None:
    """ConfigError for what need not wait for a large model: address, certificates, tokens."""
    Identities(config, tls_files(config))
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        socket.create_server((config.host, config.port), family=family).close()
    except OSError as error:
        raise _cannot_listen(config, error.strerror or str(error)) from error
    if not is_loopback(config.host) and config.tls_clients is None and config.tokens is None:
        _log.warning("whoever reaches %s may ask: no tls_clients or tokens given", config.host)


def server_options(config: CloudConfig) -> tuple[tuple[str, int], ...]:
    """gRPC's options of a service."""
    return (
        *_CHANNEL_OPTIONS,
        # With it come the core's own limits of streams that were reset and not forgotten yet.
        ("grpc.max_concurrent_streams", config.stream_limit),
        # Room for a rush: beyond this the core hangs up, on whoever comes.
        ("grpc.max_allowed_incoming_connections", 2 * config.connection_limit),
        ("grpc.server_handshake_timeout_ms", _milliseconds(config.handshake_seconds)),
        ("grpc.max_connection_age_ms", _milliseconds(config.max_connection_seconds)),
        ("grpc.max_connection_age_grace_ms", _milliseconds(config.connection_grace_seconds)),
    )


def _milliseconds(seconds: float) -> int:
    return min(max(1, round(1e3 * seconds)), 2**31 - 1)


def _cannot_listen(config: CloudConfig, reason: str) -> ConfigError:
    return ConfigError(
        f"expected to listen on {address(config.host, config.port)}, got: {reason}; stop what "
        "listens there, or choose another host or port"
    )


def _served(manifests: Sequence[SplitManifest], config: CloudConfig) -> dict[bytes, ServedBundle]:
    """What clients are told of each bundle, by digest."""
    digests = tuple(manifest.digest() for manifest in manifests)
    served = {}
    for digest, manifest in zip(digests, manifests, strict=True):
        statistics = manifest.link == "statistics"
        served[digest] = ServedBundle(
            ServiceInfo(
                manifest_json=manifest.to_json(),
                manifest_digest=digest,
                max_question_chars=config.max_question_chars,
                max_answer_tokens=config.max_answer_tokens,
                service_version=__version__,
                served_digests=digests,
            ),
            max_body_bytes(manifest.quantizer, manifest.features.num_tokens, statistics),
        )
    return served


def _blank_payload(manifest: SplitManifest) -> Payload | None:
    """A valid payload about nothing; None for raw features, which need no warming."""
    quantizer, tokens = manifest.quantizer, manifest.features.num_tokens
    if quantizer.kind == "identity":
        return None
    indices = np.zeros((tokens, quantizer.num_groups), np.int32)
    statistics = np.ones((tokens, 2), np.float16) if manifest.link == "statistics" else None
    blank = Encoded(tokens, (StageIndices(indices),), statistics)
    return pack(blank, quantizer, None, manifest.digest(), "fixed")
