"""How long a token or a certificate still works after its revocation.

One service for tokens and one for certificates. A client whose access is revoked has a running
answer, a connection that makes new calls and an idle connection; another client must not be
affected. Times count from the replacement of the file. Exits with 1 if one exceeds the target.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc

from aligned_vq.answers import Sampling
from aligned_vq.files.atomic_file import write_json
from aligned_vq.shipped import BUNDLE, CHECKPOINT
from benchmarks.harness.processes import CloudProcess
from cloud_server.certificates import issuing
from cloud_server.certificates.revocation import revoke
from edge_client import EdgeConfig
from edge_client.connection.credentials import read_credentials
from protos import convert
from protos.alignedvq.v1 import inference_pb2 as pb
from protos.alignedvq.v1 import inference_pb2_grpc as rpc
from protos.messages import Question

TARGET_SECONDS = 10.0
TOKENS = 3000
NEW_CONNECTION = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))

Row = dict[str, float | None]


def long_answer_checkpoint(folder: Path) -> Path:
    """A copy of the reference checkpoint whose answers only end at the token limit."""
    model = folder / "llava"
    shutil.copytree(CHECKPOINT, model)
    for name, section, change in (
        # A context for answers of TOKENS tokens.
        ("config.json", "text_config", {"max_position_embeddings": 4096}),
        ("generation_config.json", None, {"eos_token_id": 3}),
    ):
        settings = json.loads((model / name).read_text())
        (settings if section is None else settings[section]).update(change)
        (model / name).write_text(json.dumps(settings))
    return model


class LongAnswerClient:
    """A client with a running answer, an idle connection, and a connection for new calls.

    Each uses a separate connection; the client records when the service ends it.
    """

    def __init__(self, target: str, settings: EdgeConfig) -> None:
        self._credentials = read_credentials(settings)
        self._metadata = self._credentials.metadata()
        self._channels = [self._credentials.channel(target, NEW_CONNECTION) for _ in range(3)]
        self._running, self._idle, self._calling = map(rpc.SplitInferenceStub, self._channels)
        self._end_times: dict[str, float] = {}
        self._closing = threading.Event()

    def begin(self) -> None:
        """Start the answer and the calls, and use the idle connection once."""
        info = self._idle.GetManifest(pb.GetManifestRequest(), timeout=20, metadata=self._metadata)
        # Subscribed after a call: the connection is ready, and any later state is its end.
        self._channels[1].subscribe(self._idle_state)
        question = Question("", info.manifest_digest, "Describe.", Sampling(TOKENS), text_only=True)
        opening = pb.AskRequest(open=convert.question_to_proto(question))
        answer: Any = self._running.Ask(iter([opening]), timeout=120, metadata=self._metadata)
        # Running for certain once the first chunk has arrived.
        next(answer)
        for work in (self._read, self._call):
            threading.Thread(target=work, args=(answer,), daemon=True).start()

    def end_time(self, name: str) -> float | None:
        """The `time.monotonic()` at which the service ended this activity; None: it goes on."""
        return self._end_times.get(name)

    def close(self) -> None:
        """Close the connections."""
        self._closing.set()
        for channel in self._channels:
            channel.close()

    def _read(self, answer: Any) -> None:
        with suppress(grpc.RpcError, ValueError):
            for _ in answer:
                pass
        self._record_end("running answer")

    def _call(self, answer: Any) -> None:
        with suppress(grpc.RpcError, ValueError):
            while not self._closing.wait(0.05):
                self._calling.GetManifest(
                    pb.GetManifestRequest(), timeout=20, metadata=self._metadata
                )
        self._record_end("new calls")

    def _idle_state(self, state: grpc.ChannelConnectivity) -> None:
        if state is not grpc.ChannelConnectivity.READY:
            self._record_end("idle connection")

    def _record_end(self, name: str) -> None:
        # `close` ends everything too; only ends caused by the service count.
        if not self._closing.is_set():
            # The first end counts: a channel changes its state again when it reconnects.
            self._end_times.setdefault(name, time.monotonic())


def measure(
    revoked: LongAnswerClient,
    other: LongAnswerClient,
    revoke_client: Callable[[], None],
    limit_seconds: float,
) -> Row:
    """Seconds from the revocation to the end of each activity of the revoked client.

    None: it had not ended after `limit_seconds`. `lost` counts the ended activities of the other
    client, which should be none.
    """
    for client in (revoked, other):
        client.begin()
    names = ("new calls", "running answer", "idle connection")
    started = time.monotonic()
    revoke_client()
    while time.monotonic() < started + limit_seconds and not all(map(revoked.end_time, names)):
        time.sleep(0.05)
    ends = {name: revoked.end_time(name) for name in names}
    lost = sum(other.end_time(name) is not None for name in names)
    for client in (revoked, other):
        client.close()
    return {
        **{name: None if end is None else round(end - started, 2) for name, end in ends.items()},
        "lost": lost,
    }


@contextmanager
def service(model: Path, *options: str) -> Iterator[str]:
    """The address of a service with long answers."""
    limits = (f"--max_answer_tokens={TOKENS}", "--cache_tokens=20000")
    with CloudProcess(BUNDLE, model, *limits, *options) as cloud:
        yield cloud.target


def with_tokens(model: Path, folder: Path, limit_seconds: float) -> Row:
    """Revoke a token by removing its line from the token file."""
    path, names = folder / "tokens.yaml", ("gone", "stays")
    lines = [f"{name}: {hashlib.sha256(name.encode()).hexdigest()}\n" for name in names]
    path.write_text("".join(lines))
    for name in names:
        (folder / name).write_text(name)
    with service(model, f"--tokens={path}") as target:
        revoked, other = (
            LongAnswerClient(target, EdgeConfig(token_file=folder / name)) for name in names
        )
        return measure(revoked, other, lambda: replace_file(path, lines[1]), limit_seconds)


def with_certificates(model: Path, folder: Path, limit_seconds: float, *, by_name: bool) -> Row:
    """Revoke a certificate through the CRL, or through a deny-list of names (`by_name`)."""
    issuing.make(folder, None, ("gone", "stays"))
    path = revoke(folder, (), 30)
    options = (
        *(f"--tls_certificate={folder / 'server.pem'}", f"--tls_key={folder / 'server-key.pem'}"),
        *(f"--tls_clients={folder / 'ca.pem'}", f"--tls_refused={path}"),
    )

    def revoke_client() -> None:
        if by_name:
            replace_file(path, "names: [gone]")
        else:
            revoke(folder, ("gone",), 30)

    with service(model, *options) as target:
        revoked, other = (
            LongAnswerClient(
                target.replace("127.0.0.1", "localhost"),
                EdgeConfig(
                    tls=True,
                    ca=folder / "ca.pem",
                    certificate=folder / f"client-{name}.pem",
                    key=folder / f"client-{name}-key.pem",
                ),
            )
            for name in ("gone", "stays")
        )
        return measure(revoked, other, revoke_client, limit_seconds)


def replace_file(path: Path, text: str) -> None:
    """Replace a file atomically, as an operator's tool does."""
    new = path.with_suffix(".new")
    new.write_text(text)
    # A rename, so that the service never reads half of the file.
    new.rename(path)


def main(argv: list[str] | None = None) -> int:
    """Print the seconds; exits with 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="longest wait")
    parser.add_argument("--out", type=Path, default=None, help="file for the figures, JSON")
    options = parser.parse_args(argv)
    rows: dict[str, Row] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = long_answer_checkpoint(folder)
        rows["token"] = with_tokens(model, folder, options.seconds)
        for kind, by_name in (("certificate, CRL", False), ("certificate, name", True)):
            certificates = folder / str(by_name)
            rows[kind] = with_certificates(model, certificates, options.seconds, by_name=by_name)
    missed = False
    print(f"seconds from revocation to the end; target {TARGET_SECONDS:g}, others lose nothing")
    for kind, row in rows.items():
        times = [value for key, value in row.items() if key != "lost"]
        bad = row["lost"] or any(value is None or value > TARGET_SECONDS for value in times)
        missed |= bool(bad)
        cells = "  ".join(
            f"{key} {'never' if value is None else value}" for key, value in row.items()
        )
        print(f"{kind:18} {cells}  {'MISSED' if bad else 'met'}")
    if options.out is not None:
        write_json(options.out, {"target_s": TARGET_SECONDS, "rows": rows})
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
