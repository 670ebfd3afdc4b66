"""Takes the newest frame, asks about it, writes a line, and takes the newest again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aligned_vq.errors import (
    AlignedVQError,
    CloudUnreachable,
    ConfigError,
    ManifestMismatch,
    Overloaded,
    Unauthenticated,
)
from edge_client.client import EdgeClient, SamplingOptions
from edge_client.connection.stream import AnswerStream
from edge_client.encoder import EncodedImage
from edge_client.input.payload_source import SUFFIX
from edge_client.input.remembered_images import ImageOrPayload
from edge_client.watch.change import ChangeTest
from edge_client.watch.offline_queue import OfflineQueue, QueuedQuestion
from edge_client.watch.source import Frame, Newest

AWAY_SECONDS = 1.0
"""Between questions while the cloud is away."""
_TAKE_SECONDS = 0.5
_AWAY = (CloudUnreachable, ConfigError, ManifestMismatch, Overloaded, Unauthenticated)
"""The cloud is not there, full, or set up wrongly, which says nothing about the question."""

Line = dict[str, Any]


@dataclass(frozen=True)
class WatchPlan:
    """What to ask, and when.

    Args:
        question: asked about every picture that is taken.
        sampling: of the answers, and the quality.
        every_seconds: at least, from one look at the source to the next.
        change: None asks about every picture, else about those that differ from the last one.
        kept: where questions wait while the cloud is away; None drops them.
    """

    question: str
    sampling: SamplingOptions
    every_seconds: float = 0.0
    change: ChangeTest | None = None
    kept: OfflineQueue | None = None


class Watch:
    """Questions about the frames of a source, one at a time.

    Every answer is one dictionary for `write`; so is every frame or question that failed, and every
    question that is kept for later, with the reason. An answer to a kept question is written before
    the question is removed: after a crash in between it is asked again.
    """

    def __init__(
        self, client: EdgeClient, newest: Newest, plan: WatchPlan, write: Callable[[Line], None]
    ) -> None:
        self._client = client
        self._newest = newest
        self._plan = plan
        self._write = write
        self._stopping = threading.Event()
        self._stream: AnswerStream | None = None
        self._reason = ""  # why the cloud is away; empty after an answer
        self._skipped = self._unchanged = 0

    def run(self) -> None:
        """Until the source ends or `stop` is called.

        Raises:
            ConfigError: the queue cannot be used any more, or the source is no video.
        """
        self._newest.start()
        try:
            while not self._stopping.is_set():
                taken = self._newest.take(_TAKE_SECONDS)
                if taken is not None:
                    began = time.monotonic()
                    self._skipped += taken[1]
                    self._look_at(taken[0])
                    self._stopping.wait(began + self._plan.every_seconds - time.monotonic())
                elif self._newest.ended:
                    break
                elif not self._drain():
                    self._stopping.wait(AWAY_SECONDS)
            self._drain()
        finally:
            self._newest.close()

    def stop(self) -> None:
        """End soon: hang up the question in progress. From any thread."""
        self._stopping.set()
        stream = self._stream
        if stream is not None:
            stream.cancel()

    def _look_at(self, frame: Frame) -> None:
        """Ask about a frame, keep it, or leave it because nothing changed."""
        change, means = self._plan.change, None
        try:
            source = frame.load()
            picture: ImageOrPayload = source
            if change is not None and Path(frame.name).suffix != SUFFIX:
                picture = view = self._client.view(source)
                means = change.means(view)
                if not change.differs(means):
                    self._unchanged += 1
                    return
            if self._plan.kept is not None:
                quality = self._plan.sampling.get("quality")
                picture = self._client.compress(picture, quality=quality)
        except AlignedVQError as error:
            self._write({**_named(frame), "error": str(error)})
            return
        taken_care_of = self._ask_or_keep(frame, picture)
        if taken_care_of and change is not None and means is not None:
            change.asked(means)

    def _ask_or_keep(self, frame: Frame, picture: ImageOrPayload) -> bool:
        """Is the frame answered, or kept until it is?"""
        kept = self._plan.kept
        if kept is None:
            answered = self._answered(frame, self._plan.question, picture)
            if not answered:
                self._stopping.wait(AWAY_SECONDS)
            return answered
        waiting = len(kept)
        if not waiting and self._answered(frame, self._plan.question, picture):
            return True
        assert isinstance(picture, EncodedImage)  # as there is a queue
        kept.put(
            QueuedQuestion(
                frame.time, frame.number, frame.name, self._plan.question, picture.payload
            )
        )
        figures = {"kept": len(kept), "dropped": kept.dropped, "reason": self._reason}
        self._write({**_named(frame), **figures})
        if not waiting or not self._drain():
            self._stopping.wait(AWAY_SECONDS)
        return True

    def _drain(self) -> bool:
        """Ask what was kept, the oldest first; False as soon as the cloud is away."""
        kept = self._plan.kept
        while kept is not None and not self._stopping.is_set() and (each := kept.oldest()):
            frame = Frame(each.number, lambda: b"", each.name, each.time)
            if not self._answered(frame, each.question, each.payload, late=True):
                return False
            kept.remove(each)
        return True

    def _answered(
        self, frame: Frame, question: str, picture: ImageOrPayload, *, late: bool = False
    ) -> bool:
        """Write the answer, or why there is none; False where it may yet come."""
        line = {**_named(frame), "question": question}
        try:
            with self._client.stream(picture, question, **self._plan.sampling) as self._stream:
                if self._stopping.is_set():
                    return False
                for _ in self._stream:
                    pass
                answer = self._stream.answer
        except AlignedVQError as error:
            # Without a stream nobody was asked: the picture itself is of no use.
            away = self._stream is not None and isinstance(error, _AWAY)
            if away:
                self._reason = str(error)
            if not away or (self._plan.kept is None and not self._stopping.is_set()):
                self._write({**line, "error": str(error)})
            return not away
        finally:
            self._stream = None
        assert answer is not None  # a stream ends with an answer or an error
        self._reason = ""
        details = answer.details.to_dict()
        details.pop("token_ids")
        line |= {"answer": str(answer), "bytes_sent": answer.bytes_sent, **details}
        line |= {"skipped": self._skipped, "unchanged": self._unchanged}
        if self._plan.kept is not None:
            line |= {"late": late, "dropped": self._plan.kept.dropped}
        self._skipped = self._unchanged = 0
        self._write(line)
        return True


def _named(frame: Frame) -> Line:
    """When it came, and which one it is."""
    at = datetime.fromtimestamp(frame.time, UTC).isoformat(timespec="milliseconds")
    return {"time": at, "frame": frame.number, **({"file": frame.name} if frame.name else {})}
