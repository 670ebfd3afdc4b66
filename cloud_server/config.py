"""Settings of the cloud process; every field is also a command-line option and a YAML key."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from aligned_vq.errors import ConfigError
from aligned_vq.telemetry.traces import check_endpoint
from protos.address import is_loopback
from protos.descriptors import default_connections


@dataclass(frozen=True)
class CloudConfig:
    """What to serve, where, and within which limits.

    Args:
        bundle: directory written by `aligned-vq export`.
        more_bundles: further bundles for the same checkpoint that questions may use: an old and a
            new codec during a rollout, or other cuts.
        model: the LLaVA checkpoint, a directory in Hugging Face format or a hub id.
        revision: hub revision of the checkpoint.
        host: address to bind; beyond loopback only with TLS or with `plaintext`.
        port: TCP port; 0 lets the system choose.
        http_port: port of /healthz, /readyz, /metrics and /v1/manifest; not served if unset.
        http_host: address to bind for these. They have no encryption and no authentication, so
            beyond loopback only with `http_plaintext`.
        tls_certificate: PEM file of the service's certificate and its chain; enables TLS. This file
            and the next two are read again for every new connection, so they can be replaced while
            serving.
        tls_key: PEM file of that certificate's private key, without a passphrase.
        tls_clients: PEM file of the authority that signs client certificates. Clients without a
            certificate cannot connect, not even for health checks; a certificate's common name is
            the client's identity.
        tls_refused: deny-list of certificates: CRLs in PEM that the authority signed, or YAML with
            lists at `names` (common names), `serials` or `fingerprints`. Read again every second,
            as tls_clients and tokens are: a client that is no longer accepted is refused at once,
            and its answers and connections end.
        tokens: YAML file that maps a client's name, its identity, to the SHA-256 of its token as 64
            hex digits, or to a mapping with that as `sha256` and individual limits as `per_second`,
            `burst` and `at_once`. A call without a certificate must carry one of these tokens.
        plaintext: accept questions beyond loopback without TLS; for networks that encrypt.
        http_plaintext: serve the HTTP endpoints beyond loopback; for hosts behind a firewall.
        device: where the model runs: auto, cpu, cuda, cuda:1 and so on.
        dtype: of the language model and the vision suffix; auto is float32 on a CPU, else bfloat16.
        engine: what generates answers. transformers: in this process. vllm: in this process and its
            workers. replicas: vLLM servers with this project's plug-in, over HTTP.
        engine_urls: for replicas: http://host:port of every engine, separated by commas; a name
            with several addresses is several engines.
        tensor_parallel: for vllm: GPUs that share one model.
        data_parallel: for vllm: copies of the model on this machine.
        vllm: for vllm: further engine arguments by their Python names.
        parallel_answers: answers generated in one batch; further ones wait for a slot.
        cache_tokens: for transformers: memory for running answers, in tokens of prompts and answers
            together.
        prefix_cache_mib: for transformers: memory for keys and values of images, in MiB.
        decode_batch: payloads decoded in one pass.
        questions_per_second: rate limit of one identity in the long run; 0 is no limit.
        burst: questions an identity may ask at once after a pause; 0 is one second's worth.
        questions_at_once: questions of one identity in flight; 0 is no limit.
        max_in_flight: questions in flight in all; one more is refused as overloaded.
        max_share: largest share, above 0 to 1, of the slots for questions in flight, of the
            arriving calls and of the connections that one identity, or one address among the
            anonymous, may hold.
        max_arriving: concurrent calls whose first message has not arrived; beyond it the oldest is
            evicted.
        max_streams: concurrent calls on one connection; 0 is what one caller may have in flight, at
            least 64. Further calls wait at the client or fail as unavailable.
        max_connections: concurrent connections; 0 is three eighths of the process's file
            descriptors, at most 4,096. Beyond it the connections idle for longest are closed; until
            then up to twice as many are accepted.
        max_abandoned: calls of one connection that may end before their question arrived, within 10
            seconds; one more closes the connection.
        handshake_seconds: longest TLS and HTTP/2 handshake of a new connection.
        max_question_chars: longest question, in Unicode characters.
        max_turns: most earlier questions with answers that a question may include.
        max_history_chars: most characters of those together.
        default_answer_tokens: token limit of an answer if the question sets none.
        max_answer_tokens: largest token limit a question may set.
        max_answer_seconds: longest time for one question, whatever deadline it sets.
        question_seconds: longest wait for the first message of a call.
        payload_seconds: longest wait for each payload message after the first one.
        image_cache_mib: memory for images that follow-up questions can name by digest, in MiB.
        drain_seconds: time for running answers to finish after SIGTERM.
        max_connection_seconds: age at which a connection is closed, within a tenth; the client
            reconnects, with a certificate that is still valid.
        connection_grace_seconds: time for its running answers to finish then.
        reflection: serve gRPC reflection beside the service.
        traces: URL of an OTLP/gRPC collector for OpenTelemetry's traces, such as
            http://collector:4317; sampler, headers and the like follow OpenTelemetry's environment
            variables. If unset, nothing is recorded.
    """

    bundle: Path
    model: str
    more_bundles: tuple[Path, ...] = ()
    revision: str | None = None
    host: str = "127.0.0.1"
    port: int = 50051
    http_port: int | None = None
    http_host: str = "127.0.0.1"
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tls_clients: Path | None = None
    tls_refused: Path | None = None
    tokens: Path | None = None
    plaintext: bool = False
    http_plaintext: bool = False
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    engine: Literal["transformers", "vllm", "replicas"] = "transformers"
    engine_urls: str = ""
    tensor_parallel: int = 1
    data_parallel: int = 1
    vllm: dict[str, Any] = field(default_factory=dict)
    parallel_answers: int = 32
    cache_tokens: int = 32_768
    prefix_cache_mib: int = 512
    decode_batch: int = 8
    questions_per_second: float = 0.0
    burst: int = 0
    questions_at_once: int = 0
    max_in_flight: int = 128
    max_share: float = 0.5
    max_arriving: int = 512
    max_streams: int = 0
    max_connections: int = 0
    max_abandoned: int = 200
    handshake_seconds: float = 5.0
    max_question_chars: int = 2000
    max_turns: int = 32
    max_history_chars: int = 16_000
    default_answer_tokens: int = 128
    max_answer_tokens: int = 512
    max_answer_seconds: float = 120.0
    question_seconds: float = 5.0
    payload_seconds: float = 20.0
    image_cache_mib: int = 256
    drain_seconds: float = 20.0
    max_connection_seconds: float = 1800.0
    connection_grace_seconds: float = 120.0
    reflection: bool = True
    traces: str | None = None

    @property
    def bundles(self) -> tuple[Path, ...]:
        """All bundles; the first is the default of `GetManifest`."""
        return (self.bundle, *self.more_bundles)

    @property
    def connection_limit(self) -> int:
        """`max_connections`, or a default from the limit on file descriptors."""
        return self.max_connections or default_connections()

    @property
    def stream_limit(self) -> int:
        """`max_streams`, or what one caller may have in flight."""
        return self.max_streams or max(64, int(self.max_in_flight * self.max_share))

    def __post_init__(self) -> None:
        for name in ("port", "http_port"):
            # `http_port` may be None.
            if not 0 <= (getattr(self, name) or 0) <= 65_535:
                raise ConfigError(
                    f"expected {name} from 0 to 65535, got {getattr(self, name)}; choose a TCP port"
                )
        for name in (
            "tensor_parallel",
            "data_parallel",
            "parallel_answers",
            "cache_tokens",
            "decode_batch",
            "max_in_flight",
            "max_share",
            "max_arriving",
            "max_abandoned",
            "handshake_seconds",
            "question_seconds",
            "max_question_chars",
            "default_answer_tokens",
            "max_answer_tokens",
            "max_answer_seconds",
            "payload_seconds",
            "max_connection_seconds",
        ):
            # Not `<= 0`, which NaN would pass.
            if not getattr(self, name) > 0:
                raise ConfigError(
                    f"expected {name} above 0, got {getattr(self, name)}; choose a positive number"
                )
        for name in (
            "max_connections",
            "max_streams",
            "max_turns",
            "max_history_chars",
            "image_cache_mib",
            "prefix_cache_mib",
            "drain_seconds",
            "questions_per_second",
            "burst",
            "questions_at_once",
            "connection_grace_seconds",
        ):
            if not getattr(self, name) >= 0:  # NaN, too
                raise ConfigError(
                    f"expected {name} of 0 or more, got {getattr(self, name)}; choose 0 or a "
                    "positive number"
                )
        if self.max_share > 1:
            raise ConfigError(
                f"expected max_share of at most 1, got {self.max_share}; 1 sets no limit per caller"
            )
        if self.burst and not self.questions_per_second:
            raise ConfigError(
                f"expected questions_per_second together with burst, got only burst={self.burst}; "
                "set both"
            )
        self._check_encryption()
        check_endpoint(self.traces)

    def _check_encryption(self) -> None:
        """Refuse settings that would send questions or metrics unencrypted by mistake."""
        if (self.tls_certificate is None) != (self.tls_key is None):
            present, missing = ("tls_certificate", "tls_key")
            if self.tls_certificate is None:
                present, missing = missing, present
            raise ConfigError(
                f"expected tls_certificate and tls_key, got only {present}; set {missing} too"
            )
        if self.tls_clients is not None and self.tls_certificate is None:
            raise ConfigError(
                "expected tls_certificate and tls_key together with tls_clients, got neither; "
                "client certificates need a service with TLS: set them"
            )
        if self.tls_refused is not None and self.tls_clients is None:
            raise ConfigError(
                "expected tls_clients together with tls_refused, got only tls_refused; without "
                "tls_clients no client presents a certificate: set both"
            )
        # Plain text needs an explicit setting: forgotten certificates must not go unnoticed.
        if self.tls_certificate is None and not (self.plaintext or is_loopback(self.host)):
            raise ConfigError(
                f"expected TLS to listen beyond loopback, got host {self.host!r} without "
                "tls_certificate; set a certificate and its key (`cloud-server certs` makes "
                "some), or plaintext if something else encrypts"
            )
        if self.http_port is not None and not (self.http_plaintext or is_loopback(self.http_host)):
            raise ConfigError(
                f"expected a loopback address for HTTP, which is not encrypted, got http_host "
                f"{self.http_host!r}; choose one, or set http_plaintext behind a firewall"
            )
