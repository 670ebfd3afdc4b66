"""From a request to a row that can join the running batch."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from cloud_server.decode.lru_byte_cache import LruByteCache
from cloud_server.engine.base import EngineRequest
from cloud_server.engine.transformers.answer import RunningAnswer
from cloud_server.engine.transformers.batch import RunningBatch
from cloud_server.engine.transformers.passes import Joining


class Prefill:
    """Embeds prompts, and keeps the keys and values of images for further questions about them.

    Args:
        llava: transformers' `LlavaForConditionalGeneration`.
        batch: computes the keys and values of an image.
        image_cache_bytes: for keys and values of images.
        turns: held during the pass over a new image.
    """

    def __init__(
        self,
        llava: Any,
        batch: RunningBatch,
        image_cache_bytes: int,
        turns: AbstractContextManager[None],
    ) -> None:
        self._llava = llava
        self._image_token_id: int = llava.config.image_token_id
        self._batch = batch
        self._prefixes: LruByteCache[Tensor] = LruByteCache(image_cache_bytes, lambda kv: kv.nbytes)
        self._turns = turns

    def is_long(self, request: EngineRequest) -> bool:
        """Has its image no keys and values yet?"""
        return request.image is not None and request.image_key not in self._prefixes

    def check(self, request: EngineRequest) -> None:
        """ValueError where the prompt holds another number of placeholders than the image has
        tokens."""
        placeholders = list(request.prompt_ids).count(self._image_token_id)
        embeddings = 0 if request.image is None else len(request.image)
        if placeholders != embeddings:
            raise ValueError(f"{placeholders} placeholders for {embeddings} embeddings")

    @torch.inference_mode()
    def row(self, answer: RunningAnswer) -> Joining:
        """Keys and values up to the end of the image, if there is one, and embeddings of the rest;
        the request was checked."""
        request = answer.request
        ids = torch.tensor(list(request.prompt_ids), device=self._llava.device)
        places = ids == self._image_token_id
        embeds: Tensor = self._llava.get_input_embeddings()(ids)
        if request.image is None:
            return Joining(None, embeds, answer.need, answer.picker)
        cut = min(len(ids) - 1, int(places.nonzero()[-1]) + 1)
        prefix = self._prefixes.get(request.image_key)
        if prefix is None:
            embeds[places] = request.image.to(embeds)
            with self._turns:
                prefix = self._batch.prefix(embeds[:cut])
            if request.image_key:
                self._prefixes.put(request.image_key, prefix)
        return Joining(prefix, embeds[cut:], answer.need, answer.picker)

    @torch.inference_mode()
    def tiny(self, token: int) -> Tensor:
        """Embeddings `[2, H]` of a prompt that only asks whether the model still computes."""
        embeds: Tensor = self._llava.get_input_embeddings()(
            torch.tensor([token] * 2, device=self._llava.device)
        )
        return embeds
