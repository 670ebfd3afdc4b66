"""A refused or abandoned image is gone at once, not when cycles are next collected."""

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
    """A request's; unlike others, one can be told when it is gone."""


@pytest.fixture
def no_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def kept(data: bytes, work: Callable[[ImageDecoders, memoryview], asyncio.Future[None]]) -> bool:
    """Is the body of an image still there after the work with it?"""

    async def once() -> bool:
        async with decoders(limits(0.15)) as own:
            body = Body(data)
            ref = weakref.ref(body)
            task = work(own, memoryview(body))
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
def test_a_refused_image_is_not_kept() -> None:
    async def decode(own: ImageDecoders, data: memoryview) -> None:
        await own.decode(data)

    assert not kept(b"no image", lambda own, data: asyncio.ensure_future(decode(own, data)))


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("through_the_gateway", [False, True])
def test_an_image_that_took_too_long_is_not_kept(slow: bytes, through_the_gateway: bool) -> None:
    async def decode(own: ImageDecoders, data: memoryview) -> None:
        work = own.decode(data)
        await (until_disconnect(_receive_nothing, work) if through_the_gateway else work)

    assert not kept(slow, lambda own, data: asyncio.ensure_future(decode(own, data)))


@pytest.mark.usefixtures("no_collection")
def test_an_abandoned_image_is_not_kept(slow: bytes) -> None:
    async def decode(own: ImageDecoders, data: memoryview) -> None:
        await own.decode(data)

    def abandoned(own: ImageDecoders, data: memoryview) -> asyncio.Future[None]:
        task = asyncio.ensure_future(decode(own, data))
        asyncio.get_running_loop().call_later(0.05, task.cancel)
        return task

    assert not kept(slow, abandoned)


@pytest.mark.usefixtures("no_collection")
def test_an_image_of_which_the_model_sees_all_is_not_kept() -> None:
    async def decode(own: ImageDecoders, data: memoryview) -> None:
        await own.decode(data)
        raise AlignedVQError("done")

    assert not kept(file(), lambda own, data: asyncio.ensure_future(decode(own, data)))
