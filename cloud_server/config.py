"""Settings of a cloud process; every field is also a command-line option and a YAML key."""

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
        more_bundles: further ones made for the same checkpoint, which questions may name too: an
            old and a new codec during a rollout, or other cuts.
        model: the LLaVA checkpoint, a directory in Hugging Face format or a hub id.
        revision: hub revision of the checkpoint.
        host: address to bind; beyond loopback only with TLS, or with `plaintext`.
        port: TCP port, 0 lets the system choose.
        http_port: port of /healthz, /readyz, /metrics and /v1/manifest; none unless given.
        http_host: address to bind for these; they are not encrypted and ask nobody who they are, so
            beyond loopback only with `http_plaintext`.
        tls_certificate: PEM file of the service's certificate and its chain; gives TLS. This file
            and the next two are read again for every new connection, so they can be replaced while
            serving.
        tls_key: PEM file of that certificate's key, without a passphrase.
        tls_clients: PEM file of the authority that signs client certificates: who has none cannot
            connect, health checks included, and a certificate's common name is the identity.
        tls_refused: file with certificates that are refused before they end: CRLs in PEM that the
            authority signed, or YAML with lists at `names` (common names), `serials` or
            `fingerprints`. Read again every second, as tls_clients and tokens are: who is not
            accepted any more is refused at once, and its answers and connections end.
        tokens: YAML file that maps a client's name, its identity, to the SHA-256 of its token as 64
            hex digits, or to a mapping of that as `sha256` and limits of its own at `per_second`,
            `burst` and `at_once`; a call without a certificate must bring one of these tokens.
        plaintext: listen for questions beyond loopback without encryption; for where something else
            encrypts.
        http_plaintext: listen for operators beyond loopback; for where a firewall keeps others out.
        device: where the model runs: auto, cpu, cuda or cuda:1 and so on.
        dtype: of the language model and the vision suffix; auto is float32 on a CPU, else bfloat16.
        engine: what generates: transformers in this process; vllm in this process and its workers;
            replicas: vLLM servers with this project's plug-in, reached by HTTP.
        engine_urls: for replicas: http://host:port of every engine, with commas between them; a
            name with several addresses is several engines.
        tensor_parallel: for vllm: GPUs that share one model.
        data_parallel: for vllm: models side by side on this machine.
        vllm: for vllm: further arguments of its engine by their Python names.
        parallel_answers: answers generated in one batch; more wait for a place.
        cache_tokens: for transformers: memory for running answers, in tokens of prompt and answer
            together.
        prefix_cache_mib: for transformers: memory for what the language model made of images asked
            about before.
        decode_batch: payloads decoded in one pass.
        questions_per_second: new questions of one identity, in the long run; 0 is no limit.
        burst: questions that an identity may ask at once after a pause; 0 is one second's worth.
        questions_at_once: questions of one identity in flight; 0 is no limit.
        max_in_flight: questions accepted at the same time; one more is refused as overloaded.
        max_share: of the places in flight, of the room for questions on their way and of the
            connections: how much of each one identity, or one address among the anonymous, may
            hold; 1 is all.
        max_arriving: calls at the same time whose message has not come yet; where there are more,
            the one that came first gives way.
        max_streams: calls at the same time on one connection; 0 is what one caller may have in
            flight, at least 64. More wait at the client, or are refused as unavailable.
        max_connections: connections at the same time; 0 is three eighths of the descriptors that
            the system allows, at most 4,096. Where there are more, those idle for longest give way;
            twice as many are taken until they do.
        max_abandoned: calls of one connection that may end before their question came, in 10
            seconds; one more ends the connection.
        handshake_seconds: longest wait until a new connection speaks TLS and HTTP/2.
        max_question_chars: longest question.
        max_turns: questions and answers that a question may bring along as its conversation.
        max_history_chars: characters of all of them together.
        default_answer_tokens: token limit of an answer when the question sets none.
        max_answer_tokens: largest token limit a question may set.
        max_answer_seconds: longest time one question may take, whatever deadline it sets.
        question_seconds: longest wait for the first message of a call.
        payload_seconds: longest wait for a payload after its question was opened.
        image_cache_mib: memory for images that follow-up questions can name by digest.
        drain_seconds: time running answers get to finish after SIGTERM.
        max_connection_seconds: age at which a connection is ended, give or take a tenth; a client
            connects again, with a certificate that is still good.
        connection_grace_seconds: time running answers get to finish then.
        reflection: serve gRPC reflection beside the service.
        traces: URL of an OTLP/gRPC collector for OpenTelemetry's traces, such as
            http://collector:4317; sampler, headers and the rest follow OpenTelemetry's environment
            variables. Left out, nothing is recorded.
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
        """All of them, the first the one that is told of unasked."""
        return (self.bundle, *self.more_bundles)

    @property
    def connection_limit(self) -> int:
        """`max_connections`, or what the descriptors allow."""
        return self.max_connections or default_connections()

    @property
    def stream_limit(self) -> int:
        """`max_streams`, or what one caller can make use of."""
        return self.max_streams or max(64, int(self.max_in_flight * self.max_share))

    def __post_init__(self) -> None:
        for name in ("port", "http_port"):
            if not 0 <= (getattr(self, name) or 0) <= 65_535:
                raise ConfigError(f"{name} must be 0 to 65535, got {getattr(self, name)}")
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
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be positive, got {getattr(self, name)}")
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
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.max_share > 1:
            raise ConfigError(f"max_share must be at most 1, got {self.max_share}")
        if self.burst and not self.questions_per_second:
            raise ConfigError(
                f"expected questions_per_second beside burst, got burst={self.burst} alone; "
                "give both"
            )
        self._check_encryption()
        check_endpoint(self.traces)

    def _check_encryption(self) -> None:
        """Nothing leaves this machine in the clear by accident."""
        if (self.tls_certificate is None) != (self.tls_key is None):
            given, missing = ("tls_certificate", "tls_key")
            if self.tls_certificate is None:
                given, missing = missing, given
            raise ConfigError(
                f"expected tls_certificate and tls_key, got {given} alone; give {missing} too"
            )
        if self.tls_clients is not None and self.tls_certificate is None:
            raise ConfigError(
                "expected tls_certificate and tls_key beside tls_clients, got neither; clients "
                "show certificates only where the service has one: give them"
            )
        if self.tls_refused is not None and self.tls_clients is None:
            raise ConfigError(
                "expected tls_clients beside tls_refused, got tls_refused alone; without it nobody "
                "shows a certificate: give both"
            )
        if self.tls_certificate is None and not (self.plaintext or is_loopback(self.host)):
            raise ConfigError(
                f"expected TLS to listen beyond loopback, got host {self.host!r} without "
                "tls_certificate; give a certificate and its key (`cloud-server certs` makes "
                "some), or plaintext where something else encrypts"
            )
        if self.http_port is not None and not (self.http_plaintext or is_loopback(self.http_host)):
            raise ConfigError(
                f"expected a loopback address for HTTP, which is not encrypted, got http_host "
                f"{self.http_host!r}; choose one, or give http_plaintext where a firewall keeps "
                "others out"
            )
