"""Decoding in separate processes: views equal to the bit, and failures affect one image only."""

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
    """An image that takes a fast processor about half a second to decode."""
    return empty_scans(85, 3000, 2000)(random.Random(1))


def limits(seconds: float = PATIENT_SECONDS, memory_bytes: int = 200 * 2**20) -> Limits:
    return Limits(FORMATS, memory_bytes=memory_bytes, seconds=seconds)


@asynccontextmanager
async def decoders(custom_limits: Limits | None = None) -> AsyncIterator[ImageDecoders]:
    async with ImageDecoders(SETTINGS, custom_limits or limits()) as found:
        yield found


def run(
    work: Callable[[ImageDecoders], Awaitable[None]], custom_limits: Limits | None = None
) -> None:
    async def entered() -> None:
        async with decoders(custom_limits) as found:
            await work(found)

    asyncio.run(entered())


@pytest.fixture
def others() -> set[int]:
    """This process and its descendants that no test started."""
    return set(process_tree(os.getpid()))


def processes(others: set[int]) -> list[int]:
    """Processes that a test's decoders started: the fork server and its decoding processes."""
    return [pid for pid in process_tree(os.getpid()) if pid not in others]


async def decoding_process(server: list[int], others: set[int]) -> int:
    """The process that decodes an image, once there is one besides the server."""
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


def test_errors_have_the_same_message_as_in_this_process() -> None:
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


def test_a_killed_process_fails_one_image(slow: bytes, others: set[int]) -> None:
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


def test_images_are_decoded_after_all_idle_processes_were_killed(others: set[int]) -> None:
    async def work(found: ImageDecoders) -> None:
        for _ in range(3):
            await found.decode(file())
            for pid in processes(others):
                os.kill(pid, signal.SIGKILL)
            assert (await found.decode(file())).width == 120

    run(work)


def test_cancelled_images_leave_no_descriptors_or_processes(slow: bytes, others: set[int]) -> None:
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


def test_no_process_outlives_a_client_that_is_killed(slow: bytes, tmp_path: Path) -> None:
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
    """Work that reports the given CPU time."""

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


def test_an_image_that_used_up_its_time_slice_gives_way() -> None:
    async def work() -> None:
        slots = DecodingSlots(1, slice_seconds=0.02, wait_seconds=60)
        first, third, fourth = (DecodingSlot("a", Work()) for _ in "abc")
        second = DecodingSlot("a", busy := Work(used_seconds=0.0))
        await slots.acquire(first)  # moves to the long slot
        await slots.acquire(second)
        waiting = asyncio.create_task(slots.acquire(third))
        await asyncio.sleep(0.1)
        assert not busy.ended.is_set()  # its CPU time counts, not the time that passed
        busy.used = 1.0
        await asyncio.wait_for(busy.ended.wait(), 60)
        assert (busy.is_slow, second.was_aborted, first.is_long) == (True, True, True)
        slots.release(second)
        await waiting
        with pytest.raises(Overloaded) as caught:
            await DecodingSlots(0, 1, 0.01).acquire(fourth)
        assert caught.value.retry_after_seconds
        for slot in (first, third):
            slots.release(slot)
        await slots.acquire(fourth)

    asyncio.run(work())


def test_callers_take_turns() -> None:
    async def work() -> None:
        served: list[str] = []
        slots = DecodingSlots(1, slice_seconds=60, wait_seconds=60)

        async def visit(caller: str) -> None:
            slot = DecodingSlot(caller, Work())
            await slots.acquire(slot)
            served.append(caller)
            await asyncio.sleep(0)
            slots.release(slot)

        holding = DecodingSlot("x", Work())
        await slots.acquire(holding)
        visits = [asyncio.create_task(visit(caller)) for caller in "aaaab"]
        await asyncio.sleep(0)
        visits[0].cancel()
        slots.release(holding)
        await asyncio.wait(visits)
        assert served == ["a", "b", "a", "a"]

    asyncio.run(work())


def test_only_configured_formats_are_decoded(bundle_directory: Path) -> None:
    encoder = EdgeEncoder(bundle_directory)
    tiff = file("TIFF")
    settings, preparation = encoder.manifest.processor, encoder.preparation()
    for isolated in (False, True):
        limits = isolated, PATIENT_SECONDS
        with closing(ImageOpener(settings, DEFAULT_FORMATS, *limits)) as opener:
            with pytest.raises(InvalidInput, match=r"is TIFF: convert it, or add TIFF"):
                opener.view(tiff, preparation)
            opened = Image.open(io.BytesIO(tiff))
            assert opener.view(file(), preparation) == opener.view(opened, preparation)
        with closing(ImageOpener(settings, ("TIFF",), *limits)) as opener:
            assert opener.view(tiff, preparation) == opener.view(load_image(tiff), preparation)
            with pytest.raises(InvalidInput, match="in one of TIFF, but the image is PNG"):
                opener.view(file(), preparation)
    with pytest.raises(ConfigError, match=r"image_formats from AVIF.*got EPS"):
        EdgeConfig(image_formats=(*DEFAULT_FORMATS, "EPS"))


def test_blocking_decoders_can_be_used_from_any_thread() -> None:
    with closing(BlockingDecoders(SETTINGS, limits())) as found:
        assert found.decode(file(), "the image").width == 120
        assert asyncio.run(asyncio.to_thread(found.decode, file(), "the image")).width == 120
    found.close()
