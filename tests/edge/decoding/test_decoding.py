"""Images in processes of their own: the same to the bit, and whatever happens to one is its own."""

from __future__ import annotations

import asyncio
import io
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aligned_vq.errors import ConfigError, InvalidInput, Overloaded
from aligned_vq.images.formats import DEFAULT_FORMATS, FORMATS
from aligned_vq.images.load import load_image
from aligned_vq.images.preprocess import view_of
from aligned_vq.images.processor import ProcessorSettings
from benchmarks.attacks.peers.gateway_probes import process_tree
from benchmarks.attacks.peers.hostile_files import empty_scans
from edge_client.config import EdgeConfig
from edge_client.decoding.blocking_decoders import BlockingDecoders
from edge_client.decoding.decoders import ImageDecoders
from edge_client.decoding.job import (
    Limits,
    NotBase64,
    TooCostly,
)
from edge_client.decoding.slots import DecodingSlot, DecodingSlots
from edge_client.encoder import EdgeEncoder
from edge_client.input.image_opener import ImageOpener

SETTINGS = ProcessorSettings(size=336, crop_size=(336, 336))
PATIENT_SECONDS = 60.0


def file(form: str = "PNG", size: tuple[int, int] = (120, 90), **options: Any) -> bytes:
    pixels = np.random.default_rng(5).integers(0, 256, (size[1], size[0], 3), np.uint8)
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, form, **options)
    return written.getvalue()


@pytest.fixture(scope="module")
def slow() -> bytes:
    """Decoding it takes about half a second of a fast processor."""
    return empty_scans(85, 3000, 2000)(random.Random(1))


def limits(seconds: float = PATIENT_SECONDS, memory_bytes: int = 200 * 2**20) -> Limits:
    return Limits(FORMATS, memory_bytes=memory_bytes, seconds=seconds)


@asynccontextmanager
async def decoders(own: Limits | None = None) -> AsyncIterator[ImageDecoders]:
    async with ImageDecoders(SETTINGS, own or limits()) as found:
        yield found


def run(work: Callable[[ImageDecoders], Awaitable[None]], own: Limits | None = None) -> None:
    async def entered() -> None:
        async with decoders(own) as found:
            await work(found)

    asyncio.run(entered())


@pytest.fixture
def others() -> set[int]:
    """This process, and those below it that are none of a test's doing."""
    return set(process_tree(os.getpid()))


def processes(others: set[int]) -> list[int]:
    """Those that a test's decoders started: the server, and what it keeps or works with."""
    return [pid for pid in process_tree(os.getpid()) if pid not in others]


async def decoding_process(server: list[int], others: set[int]) -> int:
    """The process of an image, once there is one beside the server."""
    for _ in range(600):
        for pid in processes(others):
            if pid not in server:
                return pid
        await asyncio.sleep(0.01)
    raise AssertionError("no process appeared")


def test_a_view_is_the_same_to_the_bit_as_in_this_process() -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    files = [
        *(file(form) for form in ("PNG", "JPEG", "WEBP", "TIFF")),
        file("JPEG", (2500, 1700), exif=turned, progressive=True),
    ]

    async def work(found: ImageDecoders) -> None:
        for data in files:
            image = load_image(data)
            decoded = await found.decode(data)
            assert decoded.view == view_of(image, SETTINGS)
            assert (decoded.width, decoded.height, decoded.file_bytes) == (*image.size, len(data))

    run(work)


def test_what_is_no_image_is_said_in_the_same_words() -> None:
    async def work(found: ImageDecoders) -> None:
        for data in (b"", b"nothing", file()[:200]):
            with pytest.raises(InvalidInput) as expected:
                load_image(data)
            with pytest.raises(InvalidInput) as caught:
                await found.decode(data)
            assert str(caught.value) == str(expected.value)
        with pytest.raises(NotBase64, match="expected base64"):
            await found.decode(b"?", coding="base64")

    run(work)


def test_an_image_that_takes_too_long_is_refused_and_the_next_is_served(slow: bytes) -> None:
    async def work(found: ImageDecoders) -> None:
        with pytest.raises(TooCostly, match=r"within 0.15 s.*takes longer"):
            await found.decode(slow)
        for _ in range(20):  # a busy machine may need more than one try
            try:
                assert (await found.decode(file())).width == 120
            except TooCostly:
                continue
            return
        raise AssertionError("none was served")

    run(work, limits(0.15))


def test_a_killed_process_is_one_refusal(slow: bytes, others: set[int]) -> None:
    async def work(found: ImageDecoders) -> None:
        server = processes(others)
        refused = asyncio.create_task(found.decode(slow))
        await asyncio.sleep(0.05)
        os.kill(await decoding_process(server, others), signal.SIGKILL)
        served = asyncio.create_task(found.decode(file()))
        with pytest.raises(TooCostly, match="ended its decoder"):
            await refused
        assert (await served).width == 120

    run(work)


def test_an_image_outlives_the_processes_of_others(others: set[int]) -> None:
    async def work(found: ImageDecoders) -> None:
        for _ in range(3):
            await found.decode(file())
            for pid in processes(others):
                os.kill(pid, signal.SIGKILL)
            assert (await found.decode(file())).width == 120

    run(work)


def test_two_hundred_that_are_given_up_leave_nothing_behind(slow: bytes, others: set[int]) -> None:
    async def work(found: ImageDecoders) -> None:
        await found.decode(file())
        before = len(os.listdir("/proc/self/fd"))
        for number in range(200):
            task = asyncio.create_task(found.decode(slow if number % 2 else file()))
            await asyncio.sleep(0.001 * (number % 7))
            task.cancel()
            await asyncio.wait([task])
        assert (await found.decode(file())).width == 120
        assert len(os.listdir("/proc/self/fd")) <= before + 4
        assert len(processes(others)) <= 1 + 2

    run(work)


def test_nothing_outlives_a_client_that_is_killed(slow: bytes, tmp_path: Path) -> None:
    (tmp_path / "slow.jpg").write_bytes(slow)
    program = (
        "import sys; from edge_client.decoding.blocking_decoders import *; "
        "from tests.edge.decoding.test_decoding import *; "
        "found = BlockingDecoders(SETTINGS, limits()); found.decode(file(), 'first'); "
        "print('ready', flush=True); found.decode(open(sys.argv[1], 'rb').read(), 'slow')"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "slow.jpg")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"ready\n"
        pids = process_tree(client.pid)
        assert len(pids) >= 2
        client.kill()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, "a process is left"
        time.sleep(0.05)


class Work:
    """That takes as much of a processor as is said."""

    def __init__(self, used_seconds: float | None = None) -> None:
        self.used = used_seconds
        self.ended = asyncio.Event()
        self.is_slow = False

    def used_seconds(self) -> float | None:
        return self.used

    def slow_down(self) -> None:
        self.is_slow = True

    def close(self) -> None:
        self.ended.set()


def test_an_image_that_has_had_its_time_gives_way() -> None:
    async def work() -> None:
        places = DecodingSlots(1, slice_seconds=0.02, wait_seconds=60)
        first, third, fourth = (DecodingSlot("a", Work()) for _ in "abc")
        second = DecodingSlot("a", busy := Work(used_seconds=0.0))
        await places.acquire(first)  # goes on in the long place
        await places.acquire(second)
        waiting = asyncio.create_task(places.acquire(third))
        await asyncio.sleep(0.1)
        assert not busy.ended.is_set()  # whatever the clock says, it has done nothing yet
        busy.used = 1.0
        await asyncio.wait_for(busy.ended.wait(), 60)
        assert (busy.is_slow, second.was_aborted, first.is_long) == (True, True, True)
        places.release(second)
        await waiting
        with pytest.raises(Overloaded) as caught:
            await DecodingSlots(0, 1, 0.01).acquire(fourth)
        assert caught.value.retry_after_seconds
        for place in (first, third):
            places.release(place)
        await places.acquire(fourth)

    asyncio.run(work())


def test_callers_take_turns() -> None:
    async def work() -> None:
        served: list[str] = []
        places = DecodingSlots(1, slice_seconds=60, wait_seconds=60)

        async def visit(caller: str) -> None:
            place = DecodingSlot(caller, Work())
            await places.acquire(place)
            served.append(caller)
            await asyncio.sleep(0)
            places.release(place)

        holding = DecodingSlot("x", Work())
        await places.acquire(holding)
        visits = [asyncio.create_task(visit(caller)) for caller in "aaaab"]
        await asyncio.sleep(0)
        visits[0].cancel()
        places.release(holding)
        await asyncio.wait(visits)
        assert served == ["a", "b", "a", "a"]

    asyncio.run(work())


def test_formats_are_those_that_were_asked_for(bundle_directory: Path) -> None:
    encoder = EdgeEncoder(bundle_directory)
    tiff = file("TIFF")
    for isolated in (False, True):
        config = EdgeConfig(isolate_images=isolated, image_seconds=PATIENT_SECONDS)
        with closing(ImageOpener(encoder, config)) as opener:
            with pytest.raises(InvalidInput, match=r"is TIFF: convert it, or add TIFF"):
                opener.view(tiff)
            assert opener.view(file()) == opener.view(Image.open(io.BytesIO(tiff)))
        with closing(ImageOpener(encoder, replace(config, image_formats=("TIFF",)))) as opener:
            assert opener.view(tiff) == opener.view(load_image(tiff))
            with pytest.raises(InvalidInput, match="in one of TIFF, but the image is PNG"):
                opener.view(file())
    with pytest.raises(ConfigError, match=r"image_formats from AVIF.*got EPS"):
        EdgeConfig(image_formats=(*DEFAULT_FORMATS, "EPS"))


def test_a_blocking_caller_may_come_from_any_thread() -> None:
    with closing(BlockingDecoders(SETTINGS, limits())) as found:
        assert found.decode(file(), "the image").width == 120
        assert asyncio.run(asyncio.to_thread(found.decode, file(), "the image")).width == 120
    found.close()
