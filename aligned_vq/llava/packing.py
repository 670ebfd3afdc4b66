"""Packing of several questions about one image into one forward pass, for training and evaluation.

A row is the image prefix followed by segments, one per question or conversation. A segment attends
to the prefix and to itself, and its positions start after the image. Its result therefore equals
that of a forward pass without the other segments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import LlavaForConditionalGeneration

from aligned_vq.errors import ConfigError, InvalidInput

IGNORED = -100  # ignored by cross_entropy by default
_PREFIX_SEGMENT, _PADDING_SEGMENT = 0, -1
_PROBE = "0a1b2c3d"  # placeholder for texts, to find them in a rendered chat template


class TextPair(Protocol):
    """A question and its answer."""

    @property
    def text(self) -> str:
        """The question."""

    @property
    def answer(self) -> str:
        """The expected answer."""


@dataclass(frozen=True)
class TextTurn:
    """A question of a conversation and its answer; without `learned`, the answer has no labels."""

    text: str
    answer: str
    learned: bool = True


class PackedText(NamedTuple):
    """The text of a batch behind the image: token ids and more, int64 `[B, S]` each."""

    ids: Tensor
    labels: Tensor
    """The next token if it belongs to a learned answer, else IGNORED."""
    segments: Tensor
    """Number of the segment, from 1; -1: padding."""
    positions: Tensor
    answers: Tensor
    """Number of the row's learned answer that the label belongs to, from 1; 0: no label."""


class Packer:
    """Converts questions to packed token batches, with the prompt of a checkpoint's chat template.

    Args:
        processor: transformers' `LlavaProcessor`.
        num_image_tokens: embeddings of one image.

    Raises:
        ConfigError: the chat template does not place one image before the question.
    """

    def __init__(self, processor: Any, num_image_tokens: int) -> None:
        tokenizer = processor.tokenizer
        self._fast = tokenizer.backend_tokenizer
        self._eos = tokenizer.eos_token_id
        self._pad = self._eos if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        self._specials = frozenset(tokenizer.all_special_ids)
        self._image: str = processor.image_token
        content = [{"type": "image"}, {"type": "text", "text": _PROBE}]
        prompt: str = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
        before, image, after = prompt.partition(self._image)
        self._before_question, probe, self._after_question = after.partition(_PROBE)
        self._processor = processor
        if not image or not probe:
            raise ConfigError(
                "expected a chat template that puts the image before the question, "
                f"got {prompt!r}; use the processor of a LLaVA checkpoint"
            )
        self.prefix_ids: list[int] = tokenizer(before)["input_ids"]
        self.text_start = len(self.prefix_ids) + num_image_tokens

    def pack(self, batch: Sequence[Sequence[TextPair]]) -> PackedText:
        """A batch with one row per image; every question is a segment.

        Raises:
            InvalidInput: a text contains a special token.
        """
        single_turns = [[(TextTurn(pair.text, pair.answer),) for pair in row] for row in batch]
        return self.pack_conversations(single_turns)

    def pack_conversations(self, batch: Sequence[Sequence[Sequence[TextTurn]]]) -> PackedText:
        """A batch with one row per image; every conversation is a segment.

        Raises:
            InvalidInput: a text contains a special token.
            ConfigError: a conversation has several turns, which the chat template does not support.
        """
        rows = [self._row(row) for row in batch]
        longest = max(1, *(len(row[0]) for row in rows))
        padding = (self._pad, IGNORED, _PADDING_SEGMENT, self.text_start, 0)
        columns = zip(*rows, strict=True)
        return PackedText(
            *(
                torch.tensor([values + [pad] * (longest - len(values)) for values in column])
                for column, pad in zip(columns, padding, strict=True)
            )
        )

    def prompts(self, questions: Sequence[str]) -> list[list[int]]:
        """The token ids of each prompt from after the image to the start of the answer.

        Raises:
            InvalidInput: a text contains a special token.
        """
        before, after = f"{self._image}{self._before_question}", self._after_question
        texts = [before + question + after for question in questions]
        encoded = self._fast.encode_batch(texts, add_special_tokens=False)
        prompts = [text.ids[1:] for text in encoded]  # without the image token
        for question, ids in zip(questions, prompts, strict=True):
            self._check_specials(question, ids)
        return prompts

    def _row(self, conversations: Sequence[Sequence[TextTurn]]) -> tuple[list[int], ...]:
        """The fields of `PackedText` for one image."""
        row: tuple[list[int], ...] = ([], [], [], [], [])
        learned = 0
        # Texts are tokenised with all that precedes them, because tokens depend on it: a piece
        # tokenised alone could have other tokens than in the whole prompt.
        texts = [text for turns in conversations for text in self._texts(turns)]
        encoded = iter(self._fast.encode_batch(texts, add_special_tokens=False))
        for number, turns in enumerate(conversations, 1):
            ids: list[int] = []
            answers: list[int] = []
            for turn in turns:
                # Less the image token, which is the first one.
                answer_start, turn_ids = len(next(encoded).ids) - 1, next(encoded).ids[1:]
                specials = self._between_specials if ids else 0
                self._check_specials(turn.text, turn_ids[len(ids) :], specials)
                learned += turn.learned
                answer = learned if turn.learned else 0
                # The label of a token is the next one: labels of an answer start one token before
                # it and end with its end token, which is a label only.
                without = answer_start - 1 - len(ids)
                answers += [0] * without + [answer] * (len(turn_ids) - answer_start + 1)
                ids = turn_ids
            following = zip([*ids[1:], self._eos], answers, strict=True)
            labels = [token if answer else IGNORED for token, answer in following]
            positions = range(self.text_start, self.text_start + len(ids))
            fields = (ids, labels, [number] * len(ids), positions, answers)
            for field, values in zip(row, fields, strict=True):
                field += values
        return row

    def _texts(self, turns: Sequence[TextTurn]) -> list[str]:
        """For each turn, the conversation up to the start and up to the end of its answer."""
        texts = []
        conversation = f"{self._image}{self._before_question}"
        for number, turn in enumerate(turns):
            separator = self._between_turns if number else ""
            conversation += f"{separator}{turn.text}{self._after_question}"
            texts.append(conversation)
            conversation += f" {turn.answer}"
            texts.append(conversation)
        return texts

    @cached_property
    def _between_turns(self) -> str:
        """The chat template's text between an answer and the next question."""
        content = [{"type": "text", "text": _PROBE}]
        prompt: str = self._processor.apply_chat_template(
            [
                {"role": "user", "content": [{"type": "image"}, *content]},
                {"role": "assistant", "content": content},
                {"role": "user", "content": content},
            ],
            add_generation_prompt=True,
        )
        pieces = prompt.partition(self._image)[2].split(_PROBE)
        after = self._after_question
        if len(pieces) != 4 or (pieces[1], pieces[3]) != (f"{after} ", after):
            raise ConfigError(
                "expected a chat template that shows an answer, after a space, between two "
                f"questions, got {prompt!r}; use the processor of a LLaVA checkpoint"
            )
        return pieces[2]

    @cached_property
    def _between_specials(self) -> int:
        """Number of special tokens in `_between_turns`."""
        ids = self._fast.encode(self._between_turns, add_special_tokens=False).ids
        return sum(token in self._specials for token in ids)

    def _check_specials(self, question: str, ids: Sequence[int], expected: int = 0) -> None:
        """Raise InvalidInput unless the ids have as many special tokens as the template adds."""
        if sum(token in self._specials for token in ids) != expected:
            raise InvalidInput(
                "expected plain text, got a question or answer that contains a special "
                f"token ({question[:80]!r}): remove it"
            )


def packed_logits(
    model: LlavaForConditionalGeneration,
    packer: Packer,
    image_embeds: Tensor,
    text: PackedText,
    patches: Tensor | None = None,
) -> Tensor:
    """Next-token logits `[B, S, V]` of a text that `packer` made.

    `image_embeds` are `[B, P, H]`, and `patches` their patch numbers `[B, P]`; None: all in order.
    """
    device = image_embeds.device
    count = len(image_embeds)
    embed = model.get_input_embeddings()
    prefix = torch.tensor(packer.prefix_ids, device=device).expand(count, -1)
    start = prefix.shape[1]
    if patches is None:
        patches = torch.arange(image_embeds.shape[1], device=device).expand(count, -1)
    embeds = torch.cat([embed(prefix), image_embeds, embed(text.ids.to(device))], dim=1)
    positions = torch.cat(
        [
            torch.arange(start, device=device).expand(count, -1),
            patches + start,
            text.positions.to(device),
        ],
        1,
    )
    prefix_length = start + image_embeds.shape[1]
    prefix_segments = torch.full((count, prefix_length), _PREFIX_SEGMENT, device=device)
    mask = _block_mask(torch.cat([prefix_segments, text.segments.to(device)], dim=1))
    hidden = model.model.language_model(
        inputs_embeds=embeds, attention_mask=mask, position_ids=positions, use_cache=False
    ).last_hidden_state
    logits: Tensor = model.lm_head(hidden[:, prefix_length:])
    return logits


def answer_loss(logits: Tensor, text: PackedText) -> tuple[Tensor, dict[str, float]]:
    """Weighted mean cross-entropy of all answers, with the accuracy of tokens and of answers.

    The weight of a token is the inverse square root of its answer's length, so that long
    descriptions do not dominate one-word answers.
    """
    labels, weight = text.labels.to(logits.device), label_weights(text).to(logits.device)
    has_label = labels != IGNORED
    token_losses = F.cross_entropy(
        logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED, reduction="none"
    )
    loss = (token_losses * weight.flatten()).sum() / weight.sum()
    correct = (logits.argmax(-1) == labels)[has_label]
    verdicts = [verdict for row in right_answers(logits, text) for verdict in row]
    metrics = {
        "tokens": correct.float().mean().item(),
        "answers": sum(verdicts) / max(1, len(verdicts)),
    }
    return loss, metrics


def label_weights(text: PackedText) -> Tensor:
    """Weight of every token in `answer_loss`, 0 where there is no label; float32 `[B, S]`."""
    has_label = (text.labels != IGNORED).float()
    counts = torch.zeros(len(text.answers), int(text.answers.max()) + 1)
    counts.scatter_add_(1, text.answers, has_label)  # tokens per answer
    return counts.gather(1, text.answers).clamp(min=1).rsqrt() * has_label  # 0 for answer 0


def right_answers(logits: Tensor, text: PackedText) -> list[list[bool]]:
    """Per image and learned answer, whether greedy decoding would give exactly this answer.

    That is the case if the expected token, end included, has the largest logit at every position.
    """
    labels = text.labels.to(logits.device)
    wrong = (logits.argmax(-1) != labels) & (labels != IGNORED)
    verdicts = []
    for row_wrong, row_answers in zip(wrong.cpu(), text.answers.cpu(), strict=True):
        count = int(row_answers.max())
        verdicts.append([not bool(row_wrong[row_answers == a].any()) for a in range(1, count + 1)])
    return verdicts


def _block_mask(segments: Tensor) -> Tensor:
    """Attention mask `[B, 1, L, L]`: true for earlier tokens of the prefix or the same segment."""
    length = segments.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    same_segment = segments[:, :, None] == segments[:, None, :]  # [B, L, L]
    is_prefix = (segments == _PREFIX_SEGMENT)[:, None, :]  # [B, 1, L]
    return (causal & (same_segment | is_prefix))[:, None]
