"""Frames of cameras, streams and video files, read with PyAV (the extra `watch`)."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any
from urllib.parse import unquote

from PIL.Image import Image

from aligned_vq.errors import ConfigError, InvalidInput
from edge_client.watch.source import Frame, SourceLost

OPEN_SECONDS, READ_SECONDS = 10.0, 10.0
_PROTOCOL = re.compile(
    "(rtsp[su]?|rtmp[a-z]*|https?|srt|s?rtp|udp|tcp|tls|mms[a-z]?|s?ftp|hls|async|cache|concat):",
    re.IGNORECASE,
)
_PARAMETERS = re.compile("[?#&;=|,\\s\\x00-\\x1f\\x7f]")
"""What a query begins with, its parts are separated by, and cameras put into paths; and what no
terminal is to be sent."""
_DECODINGS = 3
"""Of percent signs that are escaped themselves."""


class Video:
    """A camera, a stream, or a file that is played at its own speed.

    Args:
        address: a device, a file or a URL, as FFmpeg names it.
        device: FFmpeg's name of the kind of device, such as `v4l2`; empty for files and URLs.
        live: what ends is lost; else it has ended.

    Raises:
        ConfigError: PyAV is not installed.
    """

    def __init__(self, address: str, *, device: str = "", live: bool = False) -> None:
        if find_spec("av") is None:
            raise ConfigError(
                "expected PyAV to be installed for cameras and videos, got none; run "
                "`pip install 'aligned-vq[watch]'`, or watch a folder"
            )
        self.name = shown(address)
        self._address = address
        self._device = device or None
        self._live = live
        self._number = 0

    def frames(self, stop: threading.Event) -> Iterator[Frame]:
        """See `Source.frames`. A damaged frame is one whose `load` says so."""
        import av

        try:
            with av.open(
                self._address, "r", format=self._device, timeout=(OPEN_SECONDS, READ_SECONDS)
            ) as container:
                yield from self._decoded(container, stop)
        except OSError as error:
            raise SourceLost(error.strerror or "cannot be read") from error
        except av.error.FFmpegError as error:
            # Bytes that make no sense: a file keeps them, a camera may send better ones.
            if self._live:
                raise SourceLost(error.strerror) from error
            yield self._damaged(str(error.strerror))
        if self._live and not stop.is_set():
            raise SourceLost("the stream ended")

    def _decoded(self, container: Any, stop: threading.Event) -> Iterator[Frame]:
        import av

        if not container.streams.video:
            raise ConfigError(f"expected a video in {self.name}, got none; check what it is")
        stream = container.streams.video[0]
        started: float | None = None
        for packet in container.demux(stream):
            if stop.is_set():
                return
            try:
                decoded = packet.decode()
            except av.error.InvalidDataError as error:
                yield self._damaged(str(error.strerror))
                continue
            for frame in decoded:
                if not self._live and frame.time is not None:
                    started = time.monotonic() - frame.time if started is None else started
                    stop.wait(max(0.0, started + frame.time - time.monotonic()))
                self._number += 1
                yield Frame(self._number, _picture(frame))

    def _damaged(self, reason: str) -> Frame:
        self._number += 1

        def load() -> Image:
            raise InvalidInput(
                f"expected a whole frame from {self.name}, got a damaged one ({reason}); check the "
                "file or the link"
            )

        return Frame(self._number, load)


def is_url(address: str) -> bool:
    """Does it name a stream, not a file? FFmpeg needs no `//` behind a protocol."""
    return "://" in address or _PROTOCOL.match(address) is not None


def shown(address: str) -> str:
    """An address for people, without what may be a secret: everything before an `@`, and everything
    from the first character on that begins or separates parameters. Where both readings are
    possible, as a password may hold such characters and a parameter an `@`, nothing but the scheme
    is shown.

    `rtsp://user:password@host:554/1?token=x` is `rtsp://host:554/1`; `rtsp:user:password@host/1`,
    which FFmpeg takes, too, is `host/1`.
    """
    plain = address
    for _ in range(_DECODINGS):  # an escaped @ or ? is one
        plain = unquote(plain)
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", plain)
    scheme = found[0] if found else ""
    rest = plain[len(scheme) :]
    if not scheme and not is_url(plain) and "@" not in rest:
        return address  # a file
    secret, at, place = rest.rpartition("@")
    if at and _PARAMETERS.search(secret):
        return f"{scheme}..."
    end = _PARAMETERS.search(place)
    return scheme + (place[: end.start()] if end else place)


def _picture(frame: Any) -> Callable[[], Image]:
    def load() -> Image:
        picture: Image = frame.to_image()
        return picture

    return load
