"""`edge-client watch`: its options, its source, and its signals."""

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
from edge_client.client import EdgeClient, SamplingOptions
from edge_client.watch.change import DEFAULT_LEVEL, ChangeTest
from edge_client.watch.folder import Folder
from edge_client.watch.loop import Line, Watch, WatchPlan
from edge_client.watch.offline_queue import OfflineQueue
from edge_client.watch.source import Newest, Source
from edge_client.watch.video import Video, is_url, shown

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_POLL_SECONDS = 0.2


def add_options(command: ArgumentParser) -> None:
    """Everything but what all commands have."""
    command.add_argument(
        "--source",
        required=True,
        help="camera, camera:1, a folder, a video file, or a URL such as rtsp://HOST/PATH",
    )
    command.add_argument("--ask", required=True, help="the question")
    command.add_argument(
        "--every", type=float, default=0.0, help="seconds from one look to the next, at least"
    )
    command.add_argument("--on_change", action="store_true", help="ask only about what is new")
    command.add_argument(
        "--change_level",
        type=float,
        default=DEFAULT_LEVEL,
        help="of a patch's mean colour, in standard deviations: less is no change",
    )
    command.add_argument("--once", action="store_true", help="what is in the folder now, by name")
    command.add_argument(
        "--queue",
        type=Path | None,
        default=None,
        help="folder for questions while no cloud answers",
    )
    command.add_argument(
        "--queue_bytes", type=int, default=16 * 2**20, help="of the queue; the oldest are dropped"
    )


def watch(client: EdgeClient, options: Namespace, sampling: SamplingOptions) -> None:
    """Watch until the source ends, SIGTERM or SIGINT; a line of JSON for every answer on stdout.

    Raises:
        ConfigError: source, queue or a number cannot be used.
    """
    source = open_source(options.source, once=options.once)
    if options.every < 0 or options.change_level <= 0 or options.queue_bytes <= 0:
        raise ConfigError(
            "expected every of 0 or more, and change_level and queue_bytes above 0, got "
            f"{options.every}, {options.change_level} and {options.queue_bytes}; give others"
        )
    asked_to_stop = False

    def ask_to_stop(number: int, frame: FrameType | None) -> None:
        nonlocal asked_to_stop
        asked_to_stop = True  # and no more: the main thread may hold any lock now

    for name in _SIGNALS:
        signal.signal(name, ask_to_stop)
    with ExitStack() as stack:
        kept = None
        if options.queue is not None:
            kept = stack.enter_context(OfflineQueue(options.queue, options.queue_bytes))
        change = None
        if options.on_change:
            change = ChangeTest(client.encoder.manifest, options.change_level)
        plan = WatchPlan(options.ask, sampling, options.every, change, kept)
        session = Watch(client, Newest(source, all_frames=options.once), plan, _print)
        print(f"edge-client: watching {source.name}", file=sys.stderr, flush=True)
        with ThreadPoolExecutor(1) as threads:
            running = threads.submit(session.run)
            while not running.done():
                try:
                    running.result(_POLL_SECONDS)
                except TimeoutError:
                    if asked_to_stop:
                        session.stop()
        running.result()
        if kept is not None and (count := len(kept)):
            print(f"edge-client: {count} questions are kept for later", file=sys.stderr)


def open_source(text: str, *, once: bool) -> Source:
    """The source that a text names.

    Raises:
        ConfigError: `once` is asked of something else than a folder, or PyAV is missing.
    """
    camera = re.fullmatch(r"camera(?::(\d+))?", text)
    if not camera and Path(text).is_dir():
        return Folder(Path(text), once=once)
    if once:
        raise ConfigError(f"expected a folder with once, got {shown(text)!r}; leave once out")
    if camera:
        return Video(f"/dev/video{camera[1] or 0}", device="v4l2", live=True)
    return Video(text, live=is_url(text))


def _print(line: Line) -> None:
    print(json.dumps(line), flush=True)
