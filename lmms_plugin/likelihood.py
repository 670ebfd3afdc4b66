"""Log-probabilities of given answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from aligned_vq.errors import InvalidInput
from cloud_server.chat_template import ChatTemplate


class LikelihoodReader:
    """Computes the log-probability of an answer in one forward pass of a `llava`, transformers'
    `LlavaForConditionalGeneration`, whose vision tower is not used.

    Prompt and answer together have at most `context_tokens`.
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
        is the most probable one at its position.

        Args:
            prompt_ids: token ids, with a placeholder for each token of the image.
            image: embeddings `[N', H]`; None for a text-only prompt.
            continuation: beginning of the answer; a space before its first word is part of it.

        Raises:
            InvalidInput: the continuation is empty, or does not fit into the context.
        """
        targets = self._continuation_ids(continuation, image is None)
        if not targets or len(prompt_ids) + len(targets) > self._context_tokens:
            raise InvalidInput(
                f"expected a continuation of 1 to {self._context_tokens - len(prompt_ids)} tokens, "
                f"got {len(targets)}; shorten it or the question"
            )
        llava = self._llava
        # Without the last token: the logits at each position predict the next token.
        ids = torch.tensor([*prompt_ids, *targets[:-1]], device=llava.device)
        embeds: Tensor = llava.get_input_embeddings()(ids)  # [P + T - 1, H]
        # In the order of the placeholders, as the processor of LLaVA does it.
        if image is not None:
            embeds[ids == llava.config.image_token_id] = image.to(embeds)
        logits = llava(inputs_embeds=embeds[None], logits_to_keep=len(targets)).logits[0]  # [T, V]
        # In float32: sums over a large vocabulary lose precision in half precision.
        log_probabilities = torch.log_softmax(logits.float(), dim=-1)
        target_ids = torch.tensor(targets, device=log_probabilities.device)
        total = log_probabilities.gather(-1, target_ids[:, None]).sum()
        return float(total), bool((log_probabilities.argmax(-1) == target_ids).all())

    def _continuation_ids(self, continuation: str, text_only: bool) -> list[int]:
        """Token ids of the continuation after the end of the template.

        Tokenized together with that end, as a tokenizer may treat the start of a text differently.
        """
        template_end = self._template.literals(0, text_only)[-1]
        end_ids, all_ids = (
            self._tokenizer(text, add_special_tokens=False)["input_ids"]
            for text in (template_end, template_end + continuation)
        )
        ids: list[int] = all_ids[len(end_ids) :]
        return ids
