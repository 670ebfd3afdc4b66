"""`edge-client watch`: options, source and signal handling."""

from __future__ import annotations

import json
import re
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

from jsonargparse import ArgumentParser, Namespace

from aligned_vq.errors import ConfigError
from aligned_vq.images.depth import RangeSettings
from aligned_vq.shipped import NAME
from edge_client.classifier.classifier import EdgeClassifier
from edge_client.classifier.cli import LABELS_HELP, parse_labels
from edge_client.client import EdgeClient, SamplingOptions
from edge_client.watch.change import DEFAULT_LEVEL, ChangeTest
from edge_client.watch.folder import Folder
from edge_client.watch.labels import FrameLabels
from edge_client.watch.loop import Record, Watch, WatchPlan
from edge_client.watch.offline_queue import OfflineQueue
from edge_client.watch.source import NewestFrame, Source
from edge_client.watch.video import Video, display_address, is_url

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_POLL_SECONDS = 0.2


def add_options(command: ArgumentParser) -> None:
    """Add the options of this command alone."""
    command.add_argument(
        "--source",
        required=True,
        help="camera, camera:1, a folder, a video file, or a URL such as rtsp://HOST/PATH",
    )
    command.add_argument("--ask", required=True, help="question to ask about each image")
    command.add_argument(
        "--every", type=float, default=0.0, help="minimum of seconds between images"
    )
    command.add_argument(
        "--on_change", action="store_true", help="ask only about images that changed"
    )
    command.add_argument(
        "--change_level",
        type=float,
        default=DEFAULT_LEVEL,
        help="threshold on a patch's mean colour, in standard deviations",
    )
    command.add_argument(
        "--once", action="store_true", help="ask about the files in the folder now, by name"
    )
    command.add_argument(
        "--queue",
        type=Path | None,
        default=None,
        help="folder that stores questions while the cloud cannot be reached",
    )
    command.add_argument(
        "--queue_bytes",
        type=int,
        default=16 * 2**20,
        help="size limit of the queue; the oldest questions are dropped",
    )
    command.add_argument("--labels", default="", type=str, help=LABELS_HELP)
    command.add_argument(
        "--ask_when",
        default="",
        type=str,
        help="ask only where the labels' probabilities are so: 'stairs>0.6 or corridor<0.1'",
    )
    command.add_argument(
        "--classifier",
        default="",
        type=str,
        help="directory of the classifier bundle; default with labels or ask_when: reference",
    )
    command.add_argument(
        "--adapt",
        action="store_true",
        help="frames whose labels are certain help to recognise those after them",
    )


def watch(client: EdgeClient, options: Namespace, sampling: SamplingOptions) -> None:
    """Watch until the source ends, SIGTERM or SIGINT; print a line of JSON for each answer, and
    for each frame that its labels exclude.

    Raises:
        ConfigError: source, queue, classifier or a number cannot be used, or the modality has no
            fixed range, which a video needs.
        InvalidInput: the bundle, or the classifier's, has not the modality.
    """
    half = client.encoder.manifest.edge_half(options.modality)
    source = open_source(options.source, once=options.once, modality=half.modality)
    _check_live_range("bundle", half.modality, half.range, source)
    is_classified = bool(options.labels or options.ask_when or options.classifier)
    if options.adapt and not is_classified:
        raise ConfigError(
            "expected labels beside adapt, got none: give --labels, or leave --adapt out"
        )
    if options.every < 0 or options.change_level <= 0 or options.queue_bytes <= 0:
        raise ConfigError(
            "expected every of 0 or more, and change_level and queue_bytes above 0, got "
            f"{options.every}, {options.change_level} and {options.queue_bytes}; change these"
        )
    stop_requested = False

    def request_stop(number: int, frame: FrameType | None) -> None:
        nonlocal stop_requested
        # Nothing else: the interrupted main thread may hold a lock that `Watch.stop` needs.
        stop_requested = True

    for name in _SIGNALS:
        signal.signal(name, request_stop)
    with ExitStack() as stack:
        queue = None
        if options.queue is not None:
            queue = stack.enter_context(OfflineQueue(options.queue, options.queue_bytes))
        change = None
        if options.on_change:
            change = ChangeTest(client.encoder.manifest, options.change_level)
        labels = None
        if is_classified:
            classifier = stack.enter_context(_open_classifier(client, options.classifier))
            # Raises, before the first frame would.
            own = classifier.preparation(half.modality)
            _check_live_range("classifier bundle", half.modality, own.range, source)
            chosen = parse_labels(options.labels, classifier)
            labels = FrameLabels(classifier, chosen, options.ask_when, options.adapt)
        plan = WatchPlan(options.ask, sampling, options.every, change, queue, labels)
        session = Watch(client, NewestFrame(source, all_frames=options.once), plan, _print)
        print(f"edge-client: watching {source.name}", file=sys.stderr, flush=True)
        # In a thread, so that the main thread is free to handle signals.
        with ThreadPoolExecutor(1) as threads:
            running = threads.submit(session.run)
            while not running.done():
                try:
                    running.result(_POLL_SECONDS)
                except TimeoutError:
                    if stop_requested:
                        session.stop()
        running.result()
        if queue is not None and (count := len(queue)):
            print(f"edge-client: {count} questions remain in the queue", file=sys.stderr)


def open_source(text: str, *, once: bool, modality: str = "rgb") -> Source:
    """The source that an argument names, of images of the modality.

    Raises:
        ConfigError: `once` is set and the source is not a folder, or PyAV is missing.
    """
    camera = re.fullmatch(r"camera(?::(\d+))?", text)
    if not camera and Path(text).is_dir():
        return Folder(Path(text), once=once)
    if once:
        raise ConfigError(
            f"expected a folder with once, got {display_address(text)!r}; leave once out"
        )
    if camera:
        return Video(f"/dev/video{camera[1] or 0}", device="v4l2", live=True, modality=modality)
    return Video(text, live=is_url(text), modality=modality)


def _check_live_range(
    what: str, modality: str, greys: RangeSettings | None, source: Source
) -> None:
    """ConfigError if the greys of a live source would depend on what is in each image."""
    # They would change as something enters the image, and so would all that is seen behind it.
    if greys is not None and greys.fixed is None and isinstance(source, Video):
        raise ConfigError(
            f"expected a {what} with a fixed range of {modality} for a camera or a video, got one "
            "whose range is that of each image; train the modality with a fixed range, or watch a "
            "folder"
        )


def _open_classifier(client: EdgeClient, bundle: str) -> EdgeClassifier:
    """A classifier that opens images as the client does."""
    config = client.config
    return EdgeClassifier(
        bundle or NAME,
        threads=config.threads,
        image_formats=config.image_formats,
        isolate_images=config.isolate_images,
        image_seconds=config.image_seconds,
    )


def _print(record: Record) -> None:
    print(json.dumps(record), flush=True)  # a reader of the pipe gets each line at once
