"""What of an image is decoded, and the memory that it may take."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from aligned_vq.images import reduced_decoding
from aligned_vq.images.load import load_image
from aligned_vq.images.preprocess import view_of
from aligned_vq.images.reduced_decoding import WHOLE_JPEG_PIXELS
from edge_client.decoding.decoders import ImageDecoders
from edge_client.decoding.job import TooCostly
from tests.edge.decoding.test_decoding import SETTINGS, file, limits, run

UNDERSTATED = """
import json, os, socket, sys
from aligned_vq.images import reduced_decoding
from edge_client.decoding import fork_server
from edge_client.decoding.job import (
    GRANT_LARGE,
    REQUEST_LARGE,
    header_bytes,
    job_fields,
    message_head,
)
from aligned_vq.images.preparation import Preparation
from tests.edge.decoding.test_decoding import SETTINGS, limits

reduced_decoding.BYTES_PER_PIXEL = 0  # the header understates what decoding takes
data = sys.stdin.buffer.read()
job, ours = socket.socketpair()
fork_server._fork(job.detach(), os.getpid())
ours.recv(fork_server.PID.size)
fields = job_fields("the image", "raw", limits(), Preparation(SETTINGS))
ours.sendall(message_head(fields, len(data)) + data)
assert ours.recv(len(REQUEST_LARGE)) == REQUEST_LARGE
ours.sendall(GRANT_LARGE)
sys.stdout.write(ours.recv(header_bytes(ours.recv(4))).decode())
"""


def test_memory_is_bounded() -> None:
    written = io.BytesIO()
    Image.new("CMYK", (2200, 2000)).save(written, "JPEG", progressive=True, subsampling=0)
    progressive = io.BytesIO()
    Image.new("RGB", (6000, 4000)).save(progressive, "JPEG", progressive=True, subsampling=0)
    cases = {
        r"in 1 MiB.*JPEG, 2200 x 2000\) takes 68 MiB": written.getvalue(),
        r"in 1 MiB.*JPEG, 6000 x 4000\) takes 184 MiB": progressive.getvalue(),
        r"in 1 MiB.*WEBP, 300 x 300\) takes 2 MiB": file("WEBP", (300, 300)),
    }

    async def work(found: ImageDecoders) -> None:
        for words, data in cases.items():
            with pytest.raises(TooCostly, match=words):
                await found.decode(data)
        assert (await found.decode(file())).width == 120

    run(work, limits(memory_bytes=2**20))


def test_a_file_that_takes_more_than_it_says_is_refused() -> None:
    written = io.BytesIO()
    Image.new("RGB", (3000, 3000)).save(written, "PNG")
    done = subprocess.run(
        [sys.executable, "-c", UNDERSTATED],
        input=written.getvalue(),
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert json.loads(done.stdout)["error"] == "memory"


@pytest.mark.parametrize("turned", [1, 6])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_large_jpeg_is_decoded_at_a_fraction_and_looks_the_same(mode: str, turned: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = turned
    small = np.random.default_rng(3).integers(0, 256, (40, 60, 3), np.uint8)
    image = Image.fromarray(small).resize((4201, 2801), Image.Resampling.BICUBIC).convert(mode)
    written = io.BytesIO()
    image.save(written, "JPEG", exif=exif, quality=92)
    with Image.open(io.BytesIO(written.getvalue())) as opened:
        whole = opened.convert("RGB")
    upright = whole.transpose(Image.Transpose.ROTATE_270) if turned == 6 else whole

    async def work(found: ImageDecoders) -> None:
        decoded = await found.decode(written.getvalue())
        assert (decoded.width, decoded.height) == upright.size
        assert decoded.view == view_of(load_image(written.getvalue()), SETTINGS)
        apart = decoded.view.pixels.astype(int) - view_of(upright, SETTINGS).pixels
        assert np.abs(apart).mean() < 1
        assert np.abs(apart).max() <= 16

    run(work, limits(memory_bytes=WHOLE_JPEG_PIXELS * 8))
    assert load_image(written.getvalue()).width in (2101, 1401)


@pytest.mark.parametrize(
    ("size", "decoded"),
    [
        ((3840, 2160), (3840, 2160)),  # a screen
        ((3280, 2464), (3280, 2464)),  # a Raspberry Pi's camera
        ((4032, 3024), (2016, 1512)),
        ((6000, 4000), (3000, 2000)),
        ((8000, 6000), (2000, 1500)),
        ((60_000, 1000), (60_000, 1000)),  # a panorama keeps what a model sees of its height
    ],
)
def test_the_fraction_is_the_least_that_is_needed(
    size: tuple[int, int], decoded: tuple[int, int]
) -> None:
    written = io.BytesIO()
    Image.new("L", size).save(written, "JPEG")
    with Image.open(written) as opened:
        header = reduced_decoding.prepare(opened)
    assert (header.width, header.height) == size
    assert header.decoded_pixels == decoded[0] * decoded[1]
    assert header.memory_bytes == 8 * header.decoded_pixels
