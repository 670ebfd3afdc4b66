"""Writers of files: certificates and tokens, and the queue of `edge-client watch`."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from aligned_vq.data.scenes.exam import training_images
from aligned_vq.files.staging import is_unfinished
from aligned_vq.shipped import BUNDLE
from benchmarks.kills.killing import readable_by_others
from cloud_server.certificates import issuing
from cloud_server.certificates.tls import TlsFiles
from edge_client.encoder import EdgeEncoder
from edge_client.watch.offline_queue import OfflineQueue, QueuedQuestion
from protos.access import tokens

_LIMIT_BYTES = 2**30  # never reached, so that no row is dropped for lack of room


class CertsWriter:
    """Issues certificates and tokens into a folder that is missing, empty, or has an authority.

    The first step creates the authority and a server certificate; every step adds a client
    certificate and a token.
    """

    name = "certs"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._round = 0
        self._before: set[str] = set()
        self._out = folder / "none"

    def start(self, rng: np.random.Generator) -> int:
        """Choose a new folder, and whether it is missing, empty, or has an authority."""
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
        """Write as the commands `certs` and `token` do."""
        issuing.make(self._out, None, (f"edge-{step}",))
        tokens.make(f"edge-{step}", self._token(step))

    def check(self, first: int, done: int, begun: int) -> tuple[str, list[str]]:
        """Files of finished steps are complete, and an interrupted step can be repeated.

        In a folder that was missing or empty, the first step leaves everything or nothing.
        """
        faults = []
        names = set(self._names())
        authority = {"ca.pem", "ca-key.pem", "server.pem", "server-key.pem"}
        required = self._before | (authority if done else set())
        required |= {name for step in range(done) for name in _client_files(step)}
        new = required | authority | set(_client_files(done))
        if not required <= names <= new:
            faults.append(
                f"expected {sorted(required)} and at most {sorted(new)}, got {sorted(names)}"
            )
        if not self._before and not done and names not in (set(), new):
            faults.append(f"expected nothing or everything, got {sorted(names)}")
        state = "new" if f"client-edge-{begun - 1}.pem" in names else "before"
        # Issuing the same names again must work where the kill left none of their files.
        if begun > done and state == "before":
            issuing.make(self._out, None, (f"edge-{done}",))
        faults += self._pair_faults()
        for step in range(begun):
            faults += self._token_faults(step, step < done)
        return state, faults

    def leftovers(self) -> list[str]:
        """None are checked: every step has different files, in a folder that is used once."""
        return []

    def _pair_faults(self) -> list[str]:
        """Faults of certificates, of their keys and of the permissions of both."""
        faults = []
        certificates = sorted(path for path in self._out.glob("*.pem") if "-key" not in path.name)
        if certificates:
            TlsFiles(*(self._out / name for name in ("server.pem", "server-key.pem", "ca.pem")))
            authority = x509.load_pem_x509_certificate((self._out / "ca.pem").read_bytes())
        for path in certificates:
            key_path = path.with_name(f"{path.stem}-key.pem")
            certificate = x509.load_pem_x509_certificate(path.read_bytes())
            certificate.verify_directly_issued_by(authority)
            key = load_pem_private_key(key_path.read_bytes(), None)
            if key.public_key() != certificate.public_key():
                faults.append(f"{path.name}: expected the matching key, got another")
        keys = list(self._out.glob("*-key.pem"))
        if not all(readable_by_others(certificates)) or any(readable_by_others(keys)):
            faults.append("expected that others can read certificates but no keys, got otherwise")
        return faults

    def _token_faults(self, step: int, done: bool) -> list[str]:
        path = self._token(step)
        if not path.exists():
            return [f"expected {path.name}, got none"] if done else []
        # 16 random bytes in base64 without padding.
        if len(path.read_text()) != 22 or readable_by_others([path])[0]:
            return [f"{path.name}: expected a complete token that others cannot read"]
        return []

    def _token(self, step: int) -> Path:
        return self._folder / f"token-{self._round}-{step}"

    def _names(self) -> list[str]:
        if not self._out.exists():
            return []
        return [path.name for path in self._out.iterdir() if not is_unfinished(path.name)]


class QueueWriter:
    """Writes the queue in a cycle of three steps: two questions are put, the oldest is removed."""

    name = "queue"

    def __init__(self, folder: Path) -> None:
        self._queue = folder / "queue"
        self._copy = folder / "copy"
        self._open: OfflineQueue | None = None
        self._next = 0
        self._rows: list[int] = []
        (image,) = training_images(1)
        self._payload = EdgeEncoder(BUNDLE, "onnx").encode(image).payload

    def start(self, rng: np.random.Generator) -> int:
        """Remove the queue in some rounds."""
        if rng.random() < 0.2:
            shutil.rmtree(self._queue, ignore_errors=True)
            self._rows = []
        return self._next

    def write(self, step: int) -> None:
        """Write as `edge-client watch` does; the first step of a process opens the queue."""
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
        """The queue holds every row whose `put` returned, in order, and no removed row."""
        faults = []
        before = self._rows_after(first, done)
        new = self._rows_after(first, begun)
        stored = self._stored_rows()
        if stored not in (before, new):
            faults.append(f"expected rows {before[-9:]} or {new[-9:]}, got {stored[-9:]}")
        self._rows, self._next = stored, first + begun
        files = [path for path in self._queue.glob("*") if path.exists()]
        if any(readable_by_others(files)):
            faults.append("expected that nobody else can read the queue, got readable files")
        return ("new" if begun > done and stored == new else "before"), faults

    def leftovers(self) -> list[str]:
        """None are checked: SQLite keeps journal files beside an open database."""
        return []

    def _rows_after(self, first: int, count: int) -> list[int]:
        """The rows after `count` complete steps."""
        rows = list(self._rows)
        for step in range(first, first + count):
            if step % 3 == 2 and rows:
                rows.pop(0)
            else:
                rows.append(step)
        return rows

    def _stored_rows(self) -> list[int]:
        """The numbers in the queue, -1 for a damaged row; from a copy, as reading removes rows."""
        if not self._queue.exists():
            return []
        shutil.rmtree(self._copy, ignore_errors=True)
        shutil.copytree(self._queue, self._copy)
        rows = []
        with OfflineQueue(self._copy, _LIMIT_BYTES) as queue:
            while (oldest := queue.oldest()) is not None:
                rows.append(oldest.number if oldest.payload == self._payload else -1)
                queue.remove(oldest)
            if queue.dropped:  # rows that the queue could not read
                rows.append(-1)
        return rows


def _client_files(step: int) -> tuple[str, str]:
    return f"client-edge-{step}.pem", f"client-edge-{step}-key.pem"
