"""A refused or cancelled image is freed at once, not by the next garbage collection."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable, Iterator

import pytest

from aligned_vq.errors import AlignedVQError
from edge_client.decoding.decoders import ImageDecoders
from edge_client.gateway.delivery import until_disconnect
from tests.edge.decoding.test_decoding import decoders, file, limits, slow

__all__ = ["slow"]  # a fixture


class Body(bytearray):
    """The body of a request; unlike `bytearray`, it can be referenced weakly."""


@pytest.fixture
def no_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def is_retained(
    data: bytes, work: Callable[[ImageDecoders, memoryview], asyncio.Future[None]]
) -> bool:
    """Whether the body of an image is still in memory after the work with it."""

    async def once() -> bool:
        async with decoders(limits(0.15)) as pool:
            body = Body(data)
            ref = weakref.ref(body)
            task = work(pool, memoryview(body))
            del body
            await asyncio.wait({task})
            assert task.cancelled() or isinstance(task.exception(), AlignedVQError)
            del task
            return ref() is not None

    return asyncio.run(once())


async def _receive_nothing() -> dict[str, str]:
    await asyncio.sleep(60)
    return {}


@pytest.mark.usefixtures("no_collection")
def test_a_refused_image_is_freed() -> None:
    async def decode(pool: ImageDecoders, data: memoryview) -> None:
        await pool.decode(data)

    assert not is_retained(
        b"no image", lambda pool, data: asyncio.ensure_future(decode(pool, data))
    )


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("through_the_gateway", [False, True])
def test_an_image_that_took_too_long_is_freed(slow: bytes, through_the_gateway: bool) -> None:
    async def decode(pool: ImageDecoders, data: memoryview) -> None:
        work = pool.decode(data)
        await (until_disconnect(_receive_nothing, work) if through_the_gateway else work)

    assert not is_retained(slow, lambda pool, data: asyncio.ensure_future(decode(pool, data)))


@pytest.mark.usefixtures("no_collection")
def test_a_cancelled_image_is_freed(slow: bytes) -> None:
    async def decode(pool: ImageDecoders, data: memoryview) -> None:
        await pool.decode(data)

    def abandoned(pool: ImageDecoders, data: memoryview) -> asyncio.Future[None]:
        task = asyncio.ensure_future(decode(pool, data))
        asyncio.get_running_loop().call_later(0.05, task.cancel)
        return task

    assert not is_retained(slow, abandoned)


@pytest.mark.usefixtures("no_collection")
def test_an_image_that_the_model_sees_whole_is_freed() -> None:
    async def decode(pool: ImageDecoders, data: memoryview) -> None:
        await pool.decode(data)
        raise AlignedVQError("done")

    assert not is_retained(file(), lambda pool, data: asyncio.ensure_future(decode(pool, data)))
