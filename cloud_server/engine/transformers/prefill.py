"""Prepares a request's row for the running batch."""

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
    """Embeds prompts, and caches the keys and values of images for further questions about them.

    Args:
        llava: transformers' `LlavaForConditionalGeneration`.
        batch: computes the keys and values of an image.
        prefix_cache_bytes: budget for keys and values of images.
        compute_lock: held during the pass over a new image.
    """

    def __init__(
        self,
        llava: Any,
        batch: RunningBatch,
        prefix_cache_bytes: int,
        compute_lock: AbstractContextManager[None],
    ) -> None:
        self._llava = llava
        self._image_token_id: int = llava.config.image_token_id
        self._batch = batch
        self._prefixes: LruByteCache[Tensor] = LruByteCache(
            prefix_cache_bytes, lambda kv: kv.nbytes
        )
        self._compute_lock = compute_lock

    def needs_prefix(self, request: EngineRequest) -> bool:
        """Whether the keys and values of its image are still to be computed."""
        return request.image is not None and request.image_key not in self._prefixes

    def check(self, request: EngineRequest) -> None:
        """Check a request.

        Raises:
            ValueError: the prompt has another number of placeholders than the image has tokens.
        """
        placeholders = list(request.prompt_ids).count(self._image_token_id)
        embeddings = 0 if request.image is None else len(request.image)
        if placeholders != embeddings:
            raise ValueError(
                f"expected a placeholder per image embedding, got {placeholders} placeholders "
                f"for {embeddings} embeddings; build the prompt for this image"
            )

    @torch.inference_mode()
    def row(self, answer: RunningAnswer) -> Joining:
        """The row of a checked request: keys and values up to the end of its image, if any, and
        embeddings of the rest."""
        request = answer.request
        ids = torch.tensor(list(request.prompt_ids), device=self._llava.device)
        is_image = ids == self._image_token_id  # [T]
        embeds: Tensor = self._llava.get_input_embeddings()(ids)  # [T, H]
        if request.image is None:
            return Joining(None, embeds, answer.max_tokens, answer.picker)
        # At least one token must follow the prefix, as the first logits come from a joint pass.
        prefix_length = min(len(ids) - 1, int(is_image.nonzero()[-1]) + 1)
        prefix = self._prefixes.get(request.image_key)
        if prefix is None:
            embeds[is_image] = request.image.to(embeds)
            with self._compute_lock:
                prefix = self._batch.prefix(embeds[:prefix_length])
            # Without a key the image belongs to nobody, so it is not shared.
            if request.image_key:
                self._prefixes.put(request.image_key, prefix)
        return Joining(prefix, embeds[prefix_length:], answer.max_tokens, answer.picker)

    @torch.inference_mode()
    def probe_embeddings(self, token: int) -> Tensor:
        """Embeddings `[2, H]` of a minimal prompt, to check whether the model still computes."""
        embeds: Tensor = self._llava.get_input_embeddings()(
            torch.tensor([token] * 2, device=self._llava.device)
        )
        return embeds
