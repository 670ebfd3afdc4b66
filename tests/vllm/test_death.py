"""What is left when vLLM's workers die: an engine that says so."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
from collections.abc import AsyncIterator

import pytest

from aligned_vq.answers import Sampling, TokenChunk
from aligned_vq.errors import EngineError
from cloud_server.engine.base import EngineRequest
from cloud_server.serving_backends import ServingBackend
from tests.vllm.conftest import QUESTIONS, Run, blank, told


def test_a_dead_engine_says_so(run: Run, vllm: ServingBackend) -> None:
    async def die() -> None:
        prompt = vllm.prompts.build(QUESTIONS[0])
        endless = Sampling(400, temperature=2.0, seed=1)
        answer = vllm.engine.generate(EngineRequest("last", prompt, blank(), endless))
        await anext(answer)
        (core,) = [own for own in multiprocessing.active_children() if "Engine" in own.name]
        assert core.pid is not None
        os.kill(core.pid, signal.SIGKILL)
        with pytest.raises(EngineError, match="EngineDeadError"):
            async with asyncio.timeout(30):
                await rest(answer)
        assert not vllm.engine.healthy
        assert vllm.engine.lost
        with pytest.raises(EngineError, match="got a stopped engine"):
            await told(vllm, QUESTIONS[0], blank(), "after")

    run(die())


async def rest(answer: AsyncIterator[TokenChunk]) -> None:
    async for _ in answer:
        pass
