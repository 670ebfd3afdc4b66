"""The loop of `edge-client watch`: take the newest frame, ask about it, write a record."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
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
from edge_client.input.payload_source import is_payload_file
from edge_client.input.remembered_images import ImageOrPayload
from edge_client.watch.change import ChangeTest
from edge_client.watch.labels import FrameLabels
from edge_client.watch.offline_queue import OfflineQueue, QueuedQuestion
from edge_client.watch.source import Frame, NewestFrame

RETRY_SECONDS = 1.0
"""Wait between attempts while the cloud is unavailable."""
_TAKE_SECONDS = 0.5
_DIGITS = 4
"""Of written probabilities."""
_UNAVAILABLE = (CloudUnreachable, ConfigError, ManifestMismatch, Overloaded, Unauthenticated)
"""Errors of the cloud, not of a question: it is unreachable, full, or configured wrongly."""

Record = dict[str, Any]
"""The fields of one output line."""


@dataclass(frozen=True)
class WatchPlan:
    """What to ask, and when.

    Args:
        question: question about each image.
        sampling: sampling settings, operating point and modality of the images.
        every_seconds: minimum time between two frames.
        change: selects images that differ from the reference, the last image of a question; None
            selects all.
        queue: stores questions while the cloud is unavailable; None drops them.
        labels: classifies frames on this machine, and selects those to ask about; None selects all.
    """

    question: str
    sampling: SamplingOptions
    every_seconds: float = 0.0
    change: ChangeTest | None = None
    queue: OfflineQueue | None = None
    labels: FrameLabels | None = None


class Watch:
    """Asks about the frames of a source, one at a time.

    `write` is called with a record for each answer, for each frame or question that failed, for
    each frame whose labels are not asked about, and, with the reason, for each question that goes
    to the queue. The answer to a queued question is
    written before the question is removed, so that a crash in between repeats it, and loses none.
    """

    def __init__(
        self,
        client: EdgeClient,
        newest: NewestFrame,
        plan: WatchPlan,
        write: Callable[[Record], None],
    ) -> None:
        self._client = client
        self._newest = newest
        self._plan = plan
        self._write = write
        self._stopping = threading.Event()
        self._stream: AnswerStream | None = None
        self._reason = ""  # why the cloud is unavailable; empty after an answer
        self._skipped = self._unchanged = 0

    def run(self) -> None:
        """Run until the source ends or `stop` is called.

        Raises:
            ConfigError: the queue cannot be used any more, or the source is not a video.
        """
        self._newest.start()
        try:
            while not self._stopping.is_set():
                taken = self._newest.take(_TAKE_SECONDS)
                if taken is not None:
                    started_at = time.monotonic()
                    frame, skipped = taken
                    self._skipped += skipped
                    self._handle(frame)
                    self._stopping.wait(started_at + self._plan.every_seconds - time.monotonic())
                elif self._newest.ended:
                    break
                elif not self._drain_queue():
                    self._stopping.wait(RETRY_SECONDS)
            self._drain_queue()
        finally:
            self._newest.close()

    def stop(self) -> None:
        """Cancel the question in progress and make `run` return soon. Thread-safe."""
        self._stopping.set()
        stream = self._stream
        if stream is not None:
            stream.cancel()

    def _handle(self, frame: Frame) -> None:
        """Ask about a frame or queue the question, unless the image has not changed, or its labels
        are not among those to ask about."""
        change, labels, means = self._plan.change, self._plan.labels, None
        modality = self._plan.sampling.get("modality", "rgb")
        try:
            source = frame.load()
            image: ImageOrPayload = source
            if change is not None and not is_payload_file(frame.name):
                image = view = self._client.view(source, modality)
                means = change.means(view)
                if not change.differs(means):
                    self._unchanged += 1
                    return
            if labels is not None:
                frame = replace(frame, labels=labels.of(source, frame.name, modality))
                if not labels.is_wanted(frame.labels):
                    self._write({**_frame_fields(frame), "asked": False})
                    return
            # Encoded now, as the queue stores payloads; `_ask` would encode it otherwise.
            if self._plan.queue is not None:
                quality = self._plan.sampling.get("quality")
                image = self._client.compress(image, quality=quality, modality=modality)
        except AlignedVQError as error:
            self._write({**_frame_fields(frame), "error": str(error)})
            return
        is_done = self._ask_or_queue(frame, image)
        if is_done and change is not None and means is not None:
            change.set_reference(means)

    def _ask_or_queue(self, frame: Frame, image: ImageOrPayload) -> bool:
        """Ask about an image, or queue the question; False if neither was possible."""
        queue = self._plan.queue
        if queue is None:
            answered = self._ask(frame, self._plan.question, image)
            if not answered:
                self._stopping.wait(RETRY_SECONDS)
            return answered
        num_waiting = len(queue)
        # Behind queued questions a new one waits, too, so that answers come in order.
        if not num_waiting and self._ask(frame, self._plan.question, image):
            return True
        assert isinstance(image, EncodedImage)  # `_handle` encoded it, as there is a queue
        queue.put(
            QueuedQuestion(frame.time, frame.number, frame.name, self._plan.question, image.payload)
        )
        state = {"kept": len(queue), "dropped": queue.dropped, "reason": self._reason}
        self._write({**_frame_fields(frame), **state})
        if not num_waiting or not self._drain_queue():
            self._stopping.wait(RETRY_SECONDS)
        return True

    def _drain_queue(self) -> bool:
        """Ask the queued questions, the oldest first; False once the cloud is unavailable."""
        queue = self._plan.queue
        while queue is not None and not self._stopping.is_set() and (oldest := queue.oldest()):
            frame = Frame(oldest.number, lambda: b"", oldest.name, oldest.time)
            if not self._ask(frame, oldest.question, oldest.payload, late=True):
                return False
            queue.remove(oldest)
        return True

    def _ask(
        self, frame: Frame, question: str, image: ImageOrPayload, *, late: bool = False
    ) -> bool:
        """Ask, and write the answer or the error; False if the question may be asked again."""
        record = {**_frame_fields(frame), "question": question}
        try:
            with self._client.stream(image, question, **self._plan.sampling) as self._stream:
                if self._stopping.is_set():
                    return False
                for _ in self._stream:
                    pass
                answer = self._stream.answer
        except AlignedVQError as error:
            # Without a stream the image itself was refused, and asking again would not help.
            unavailable = self._stream is not None and isinstance(error, _UNAVAILABLE)
            if unavailable:
                self._reason = str(error)
            if not unavailable or (self._plan.queue is None and not self._stopping.is_set()):
                self._write({**record, "error": str(error)})
            return not unavailable
        finally:
            self._stream = None
        assert answer is not None  # a stream ends with an answer or an error
        self._reason = ""
        details = answer.details.to_dict()
        details.pop("token_ids")
        record |= {"answer": str(answer), "bytes_sent": answer.bytes_sent, **details}
        record |= {"skipped": self._skipped, "unchanged": self._unchanged}
        if self._plan.queue is not None:
            record |= {"late": late, "dropped": self._plan.queue.dropped}
        self._skipped = self._unchanged = 0
        self._write(record)
        return True


def _frame_fields(frame: Frame) -> Record:
    """Time, number, file name and labels of a frame."""
    time_text = datetime.fromtimestamp(frame.time, UTC).isoformat(timespec="milliseconds")
    file = {"file": frame.name} if frame.name else {}
    rounded = {label: round(share, _DIGITS) for label, share in (frame.labels or {}).items()}
    labels = {"labels": rounded} if rounded else {}
    return {"time": time_text, "frame": frame.number, **file, **labels}
