"""Frames of cameras, streams and video files, read with PyAV (the extra `watch`)."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from aligned_vq.errors import ConfigError, InvalidInput
from edge_client.watch.source import Frame, SourceLost

OPEN_SECONDS, READ_SECONDS = 10.0, 10.0
_PROTOCOL = re.compile(
    "(rtsp[su]?|rtmp[a-z]*|https?|srt|s?rtp|udp|tcp|tls|mms[a-z]?|s?ftp|hls|async|cache|concat):",
    re.IGNORECASE,
)
_PARAMETERS = re.compile("[?#&;=|,\\s\\x00-\\x1f\\x7f]")
"""Characters that begin or separate parameters in queries or in paths of cameras, and control
characters, which must not reach a terminal."""
_MAX_DECODINGS = 3
"""Percent-encoding may be nested."""


class Video:
    """A camera, a stream, or a file that is played at its frame rate.

    Args:
        address: a device, a file or a URL, as FFmpeg names it.
        device: FFmpeg's input format of the device, such as `v4l2`; empty for files and URLs.
        live: whether the end of the stream means that the source is lost.
        modality: of the frames; others than rgb are grey, of the depth that the source sends.

    Raises:
        ConfigError: PyAV is not installed.
    """

    def __init__(
        self, address: str, *, device: str = "", live: bool = False, modality: str = "rgb"
    ) -> None:
        if find_spec("av") is None:
            raise ConfigError(
                "expected PyAV to be installed for cameras and videos, got none; run "
                "`pip install 'aligned-vq[watch]'`, or watch a folder"
            )
        self.name = display_address(address)
        self._address = address
        self._device = device or None
        self._live = live
        self._load = _colour if modality == "rgb" else _grey
        self._number = 0

    def frames(self, stop: threading.Event) -> Iterator[Frame]:
        """See `Source.frames`. The `load` of a damaged frame raises InvalidInput."""
        import av  # an optional extra

        try:
            with av.open(
                self._address, "r", format=self._device, timeout=(OPEN_SECONDS, READ_SECONDS)
            ) as container:
                yield from self._decode(container, stop)
        except OSError as error:
            raise SourceLost(error.strerror or "cannot be read") from error
        except av.error.FFmpegError as error:
            # Invalid data: a file will not change, but a camera may send valid data next time.
            if self._live:
                raise SourceLost(error.strerror) from error
            yield self._damaged(str(error.strerror))
        if self._live and not stop.is_set():
            raise SourceLost("the stream ended")

    def _decode(self, container: Any, stop: threading.Event) -> Iterator[Frame]:
        import av

        if not container.streams.video:
            raise ConfigError(
                f"expected a video stream in {self.name}, got none; check the address"
            )
        stream = container.streams.video[0]
        started_at: float | None = None
        for packet in container.demux(stream):
            if stop.is_set():
                return
            try:
                decoded = packet.decode()
            except av.error.InvalidDataError as error:
                yield self._damaged(str(error.strerror))
                continue
            for frame in decoded:
                # A file is played at its frame rate; a live source sets the pace itself.
                if not self._live and frame.time is not None:
                    if started_at is None:
                        started_at = time.monotonic() - frame.time
                    stop.wait(max(0.0, started_at + frame.time - time.monotonic()))
                self._number += 1
                yield Frame(self._number, partial(self._load, frame))

    def _damaged(self, reason: str) -> Frame:
        self._number += 1

        def load() -> Image:
            raise InvalidInput(
                f"expected a whole frame from {self.name}, got a damaged one ({reason}); check the "
                "file or the link"
            )

        return Frame(self._number, load)


def is_url(address: str) -> bool:
    """Whether an address names a stream, not a file; FFmpeg needs no `//` after a protocol."""
    return "://" in address or _PROTOCOL.match(address) is not None


def display_address(address: str) -> str:
    """An address for messages, without possible secrets.

    Removes everything before an `@`, and everything from the first character that begins or
    separates parameters. If both apply, it is ambiguous what is secret, as a password may hold such
    characters and a parameter an `@`: then only the scheme is left.

    `rtsp://user:password@host:554/1?token=x` is `rtsp://host:554/1`; `rtsp:user:password@host/1`,
    which FFmpeg accepts as well, is `host/1`.
    """
    decoded = address
    for _ in range(_MAX_DECODINGS):  # a percent-encoded @ or ? counts as well
        decoded = unquote(decoded)
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", decoded)
    scheme = match[0] if match else ""
    rest = decoded[len(scheme) :]
    if not scheme and not is_url(decoded) and "@" not in rest:
        return address  # a file
    credentials, at_sign, location = rest.rpartition("@")
    if at_sign and _PARAMETERS.search(credentials):
        return f"{scheme}..."
    parameters = _PARAMETERS.search(location)
    return scheme + (location[: parameters.start()] if parameters else location)


def _colour(frame: Any) -> Image:
    image: Image = frame.to_image()
    return image


def _grey(frame: Any) -> NDArray[np.generic]:
    """`[H, W]`, uint16 where the frame has more than 8 bits, else uint8."""
    is_deep = max(component.bits for component in frame.format.components) > 8
    values: NDArray[np.generic] = frame.to_ndarray(format="gray16le" if is_deep else "gray")
    return values
