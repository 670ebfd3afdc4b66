"""How long a token or a certificate works after it was taken back.

One service for tokens and one for certificates. Of each client that is taken back one answer runs,
one connection asks again and again, and one is idle; another client's answer must go on. Seconds
from the replacement of the file; exits with 1 where one is above the target.
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
OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))

Row = dict[str, float | None]


def talkative(folder: Path) -> Path:
    """The reference checkpoint with room for long answers, which it does not end by itself."""
    model = folder / "llava"
    shutil.copytree(CHECKPOINT, model)
    for name, section, change in (
        ("config.json", "text_config", {"max_position_embeddings": 4096}),
        ("generation_config.json", None, {"eos_token_id": 3}),
    ):
        settings = json.loads((model / name).read_text())
        (settings if section is None else settings[section]).update(change)
        (model / name).write_text(json.dumps(settings))
    return model


class LongAnswerClient:
    """One client: an answer that runs, an idle connection, and one to ask over again and again."""

    def __init__(self, target: str, settings: EdgeConfig) -> None:
        self._credentials = read_credentials(settings)
        self._metadata = self._credentials.metadata()
        self._channels = [self._credentials.channel(target, OWN_CONNECTION) for _ in range(3)]
        self._running, self._idle, self._asking = map(rpc.SplitInferenceStub, self._channels)
        self._ended: dict[str, float] = {}
        self._closing = threading.Event()

    def begin(self) -> None:
        """Start the answer, and leave a connection that was used idle."""
        info = self._idle.GetManifest(pb.GetManifestRequest(), timeout=20, metadata=self._metadata)
        self._channels[1].subscribe(self._idle_state)
        question = Question("", info.manifest_digest, "Describe.", Sampling(TOKENS), text_only=True)
        opening = pb.AskRequest(open=convert.question_to_proto(question))
        answer: Any = self._running.Ask(iter([opening]), timeout=120, metadata=self._metadata)
        next(answer)
        for work in (self._read, self._ask):
            threading.Thread(target=work, args=(answer,), daemon=True).start()

    def ended(self, name: str) -> float | None:
        """When that was over; None: it is not."""
        return self._ended.get(name)

    def close(self) -> None:
        """Hang up."""
        self._closing.set()
        for channel in self._channels:
            channel.close()

    def _read(self, answer: Any) -> None:
        with suppress(grpc.RpcError, ValueError):
            for _ in answer:
                pass
        self._note("running answer")

    def _ask(self, answer: Any) -> None:
        with suppress(grpc.RpcError, ValueError):
            while not self._closing.wait(0.05):
                self._asking.GetManifest(
                    pb.GetManifestRequest(), timeout=20, metadata=self._metadata
                )
        self._note("new calls")

    def _idle_state(self, state: grpc.ChannelConnectivity) -> None:
        if state is not grpc.ChannelConnectivity.READY:
            self._note("idle connection")

    def _note(self, name: str) -> None:
        if not self._closing.is_set():
            self._ended.setdefault(name, time.monotonic())


def measured(
    gone: LongAnswerClient, stays: LongAnswerClient, take_back: Callable[[], None], limit: float
) -> Row:
    """Seconds until everything of one client had ended; `lost` counts what another one lost."""
    for client in (gone, stays):
        client.begin()
    names = ("new calls", "running answer", "idle connection")
    started = time.monotonic()
    take_back()
    while time.monotonic() < started + limit and not all(map(gone.ended, names)):
        time.sleep(0.05)
    ends = {name: gone.ended(name) for name in names}
    lost = sum(stays.ended(name) is not None for name in names)
    for client in (gone, stays):
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


def with_tokens(model: Path, folder: Path, limit: float) -> Row:
    """A line of the file of tokens is removed."""
    path, names = folder / "tokens.yaml", ("gone", "stays")
    lines = [f"{name}: {hashlib.sha256(name.encode()).hexdigest()}\n" for name in names]
    path.write_text("".join(lines))
    for name in names:
        (folder / name).write_text(name)
    with service(model, f"--tokens={path}") as target:
        own = [LongAnswerClient(target, EdgeConfig(token_file=folder / name)) for name in names]
        return measured(own[0], own[1], lambda: replaced(path, lines[1]), limit)


def with_certificates(model: Path, folder: Path, limit: float, *, by_name: bool) -> Row:
    """A certificate is put on the CRL, or its name on a list."""
    issuing.make(folder, None, ("gone", "stays"))
    path = revoke(folder, (), 30)
    options = (
        *(f"--tls_certificate={folder / 'server.pem'}", f"--tls_key={folder / 'server-key.pem'}"),
        *(f"--tls_clients={folder / 'ca.pem'}", f"--tls_refused={path}"),
    )

    def take_back() -> None:
        if by_name:
            replaced(path, "names: [gone]")
        else:
            revoke(folder, ("gone",), 30)

    with service(model, *options) as target:
        own = [
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
        ]
        return measured(own[0], own[1], take_back, limit)


def replaced(path: Path, text: str) -> None:
    """As an operator's tool replaces a file: at once."""
    beside = path.with_suffix(".new")
    beside.write_text(text)
    beside.rename(path)


def main(argv: list[str] | None = None) -> int:
    """Entry point; 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="longest wait")
    parser.add_argument("--out", type=Path, default=None, help="file for the figures, JSON")
    options = parser.parse_args(argv)
    rows: dict[str, Row] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = talkative(folder)
        rows["token"] = with_tokens(model, folder, options.seconds)
        for kind, by_name in (("certificate, CRL", False), ("certificate, name", True)):
            own = folder / str(by_name)
            rows[kind] = with_certificates(model, own, options.seconds, by_name=by_name)
    missed = False
    print(f"seconds from taking back to the end; target {TARGET_SECONDS:g}, others lose nothing")
    for kind, row in rows.items():
        times = [value for key, value in row.items() if key != "lost"]
        bad = row["lost"] or any(value is None or value > TARGET_SECONDS for value in times)
        missed |= bool(bad)
        cells = "  ".join(
            f"{key} {'never' if value is None else value}" for key, value in row.items()
        )
        print(f"{kind:18} {cells}  {'MISSED' if bad else 'met'}")
    if options.out is not None:
        options.out.write_text(json.dumps({"target_s": TARGET_SECONDS, "rows": rows}, indent=1))
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
