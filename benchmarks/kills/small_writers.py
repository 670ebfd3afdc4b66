"""Writers of small things: certificates and tokens, and the queue of `edge-client watch`."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from aligned_vq.data.scenes.exam import training_images
from aligned_vq.files.staging import is_unfinished
from aligned_vq.shipped import BUNDLE
from benchmarks.kills.killing import opened_by_others
from cloud_server.certificates import issuing
from cloud_server.certificates.tls import TlsFiles
from edge_client.encoder import EdgeEncoder
from edge_client.watch.offline_queue import OfflineQueue, QueuedQuestion
from protos.access import tokens

_LIMIT_BYTES = 2**30


class CertsWriter:
    """An authority with a server's and a client's certificate, then a client and a token more at
    every step; into a folder that is not there, is empty, or holds an authority already."""

    name = "certs"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._round = 0
        self._before: set[str] = set()
        self._out = folder / "none"

    def start(self, rng: np.random.Generator) -> int:
        """A new folder."""
        self._round += 1
        self._out = self._folder / f"certs-{self._round}"
        kind = rng.choice(("absent", "empty", "used"))
        if kind != "absent":
            self._out.mkdir()
        if kind == "used":
            issuing.make(self._out, None, ("first",))
        self._before = set(self._names())
        return 0

    def write(self, step: int) -> None:
        """As the commands `certs` and `token` do."""
        issuing.make(self._out, None, (f"edge-{step}",))
        tokens.make(f"edge-{step}", self._token(step))

    def check(self, first: int, done: int, begun: int) -> tuple[str, list[str]]:
        """All or nothing where there was nothing, whole pairs otherwise, and what was begun can be
        asked for again."""
        faults = []
        names = set(self._names())
        authority = {"ca.pem", "ca-key.pem", "server.pem", "server-key.pem"}
        wanted = self._before | (authority if done else set())
        wanted |= {name for step in range(done) for name in _client_files(step)}
        new = wanted | authority | set(_client_files(done))
        if not wanted <= names <= new:
            faults.append(
                f"expected {sorted(wanted)} and at most {sorted(new)}, got {sorted(names)}"
            )
        if not self._before and not done and names not in (set(), new):
            faults.append(f"expected nothing or everything, got {sorted(names)}")
        state = "new" if f"client-edge-{begun - 1}.pem" in names else "before"
        if begun > done and state == "before":
            issuing.make(self._out, None, (f"edge-{done}",))
        faults += self._pairs()
        for step in range(begun):
            faults += self._token_faults(step, step < done)
        return state, faults

    def leftovers(self) -> list[str]:
        """Every step has other files; what kills left in the folder goes with it."""
        return []

    def _pairs(self) -> list[str]:
        faults = []
        found = sorted(path for path in self._out.glob("*.pem") if "-key" not in path.name)
        if found:
            TlsFiles(*(self._out / name for name in ("server.pem", "server-key.pem", "ca.pem")))
            authority = x509.load_pem_x509_certificate((self._out / "ca.pem").read_bytes())
        for path in found:
            key_path = path.with_name(f"{path.stem}-key.pem")
            certificate = x509.load_pem_x509_certificate(path.read_bytes())
            certificate.verify_directly_issued_by(authority)
            key = load_pem_private_key(key_path.read_bytes(), None)
            if key.public_key() != certificate.public_key():
                faults.append(f"{path.name}: expected its key, got another")
        keys = list(self._out.glob("*-key.pem"))
        if not all(opened_by_others(found)) or any(opened_by_others(keys)):
            faults.append("expected that others read certificates and no keys")
        return faults

    def _token_faults(self, step: int, done: bool) -> list[str]:
        path = self._token(step)
        if not path.exists():
            return [f"expected {path.name}, got none"] if done else []
        if len(path.read_text()) != 22 or opened_by_others([path])[0]:
            return [f"{path.name}: expected a whole token that others cannot read"]
        return []

    def _token(self, step: int) -> Path:
        return self._folder / f"token-{self._round}-{step}"

    def _names(self) -> list[str]:
        if not self._out.exists():
            return []
        return [path.name for path in self._out.iterdir() if not is_unfinished(path.name)]


class QueueWriter:
    """Two questions put into the queue, the oldest one taken out, and so on."""

    name = "queue"

    def __init__(self, folder: Path) -> None:
        self._queue = folder / "queue"
        self._copy = folder / "copy"
        self._open: OfflineQueue | None = None
        self._next = 0
        self._rows: list[int] = []
        (picture,) = training_images(1)
        self._payload = EdgeEncoder(BUNDLE, "onnx").encode(picture).payload

    def start(self, rng: np.random.Generator) -> int:
        """Sometimes the queue is new."""
        if rng.random() < 0.2:
            shutil.rmtree(self._queue, ignore_errors=True)
            self._rows = []
        return self._next

    def write(self, step: int) -> None:
        """As `edge-client watch` does; the first step of a process opens the queue."""
        if self._open is None:
            self._open = OfflineQueue(self._queue, _LIMIT_BYTES)
        oldest = self._open.oldest() if step % 3 == 2 else None
        if oldest is not None:
            self._open.remove(oldest)
        else:
            self._open.put(
                QueuedQuestion(1e9 + step, step, f"{step}.png", "What is it?", self._payload)
            )

    def check(self, first: int, done: int, begun: int) -> tuple[str, list[str]]:
        """Every row whose `put` returned, in order, and none that was taken out."""
        faults = []
        before = self._after(first, done)
        new = self._after(first, begun)
        found = self._found()
        if found not in (before, new):
            faults.append(f"expected rows {before[-9:]} or {new[-9:]}, got {found[-9:]}")
        self._rows, self._next = found, first + begun
        files = [path for path in self._queue.glob("*") if path.exists()]
        if any(opened_by_others(files)):
            faults.append("expected that nobody else reads the queue")
        return ("new" if begun > done and found == new else "before"), faults

    def leftovers(self) -> list[str]:
        """SQLite has files of its own beside the database while it is open."""
        return []

    def _after(self, first: int, count: int) -> list[int]:
        rows = list(self._rows)
        for step in range(first, first + count):
            if step % 3 == 2 and rows:
                rows.pop(0)
            else:
                rows.append(step)
        return rows

    def _found(self) -> list[int]:
        """Read from a copy, as reading takes out."""
        if not self._queue.exists():
            return []
        shutil.rmtree(self._copy, ignore_errors=True)
        shutil.copytree(self._queue, self._copy)
        found = []
        with OfflineQueue(self._copy, _LIMIT_BYTES) as queue:
            while (oldest := queue.oldest()) is not None:
                found.append(oldest.number if oldest.payload == self._payload else -1)
                queue.remove(oldest)
            if queue.dropped:
                found.append(-1)
        return found


def _client_files(step: int) -> tuple[str, str]:
    return f"client-edge-{step}.pem", f"client-edge-{step}-key.pem"
