"""How probable a model finds a given answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from aligned_vq.errors import InvalidInput
from cloud_server.chat_template import ChatTemplate


class LikelihoodReader:
    """Reads log-probabilities of answers off one forward pass each.

    Args:
        llava: transformers' `LlavaForConditionalGeneration`; its vision tower is not used.
        processor: transformers' `LlavaProcessor`.
        context_tokens: of prompt and answer together.
    """

    def __init__(self, llava: Any, processor: Any, context_tokens: int) -> None:
        self._llava = llava
        self._tokenizer = processor.tokenizer
        self._template = ChatTemplate(processor)
        self._context_tokens = context_tokens

    @torch.inference_mode()
    def read(
        self, prompt_ids: Sequence[int], image: Tensor | None, continuation: str
    ) -> tuple[float, bool]:
        """The sum of the log-probabilities of the continuation's tokens, and whether each of them
        is the most probable one at its place.

        Args:
            prompt_ids: with a placeholder for each of the image's tokens.
            image: embeddings `[N', H]`; None for a prompt about none.
            continuation: what the answer begins with; a space before its first word is part of it.

        Raises:
            InvalidInput: the continuation is empty, or does not fit the context.
        """
        own = self._continuation_ids(continuation, image is None)
        if not own or len(prompt_ids) + len(own) > self._context_tokens:
            raise InvalidInput(
                f"expected a continuation of 1 to {self._context_tokens - len(prompt_ids)} tokens, "
                f"got {len(own)}; shorten it or the question"
            )
        llava = self._llava
        ids = torch.tensor([*prompt_ids, *own[:-1]], device=llava.device)
        embeds: Tensor = llava.get_input_embeddings()(ids)
        if image is not None:
            places = ids == llava.config.image_token_id
            embeds[places] = image.to(embeds)
        logits = llava(inputs_embeds=embeds[None], logits_to_keep=len(own)).logits[0]
        shares = torch.log_softmax(logits.float(), dim=-1)
        wanted = torch.tensor(own, device=shares.device)
        total = shares.gather(-1, wanted[:, None]).sum()
        return float(total), bool((shares.argmax(-1) == wanted).all())

    def _continuation_ids(self, continuation: str, text_only: bool) -> list[int]:
        """Its tokens as they follow the template's end: a tokenizer may write the same text
        differently at the start of another."""
        before = self._template.literals(0, text_only)[-1]
        head, whole = (
            self._tokenizer(text, add_special_tokens=False)["input_ids"]
            for text in (before, before + continuation)
        )
        ids: list[int] = whole[len(head) :]
        return ids
