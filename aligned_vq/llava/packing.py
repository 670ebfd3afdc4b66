"""Many questions behind one image prefix: one forward pass teaches or examines them all.

Every question, or conversation of several turns, is its own segment: it sees the prefix and itself,
and its positions start right after the image, so each is computed exactly as if it were the only
one.
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

IGNORED = -100
_PREFIX_SEGMENT, _PADDING_SEGMENT = 0, -1
_PROBE = "0a1b2c3d"  # stands for the question while the template is taken apart


class TextPair(Protocol):
    """A question and its answer."""

    @property
    def text(self) -> str:
        """The question."""

    @property
    def answer(self) -> str:
        """What the model shall say."""


@dataclass(frozen=True)
class TextTurn:
    """A question of a conversation and its answer, which is only read where it is not `learned`."""

    text: str
    answer: str
    learned: bool = True


class PackedText(NamedTuple):
    """Text of a batch, all `[B, S]` int64.

    `labels` is the next token where that is a learned answer's, and `answers` says which answer of
    the row it belongs to, from 1 on (0: none).
    """

    ids: Tensor
    labels: Tensor
    segments: Tensor
    positions: Tensor
    answers: Tensor


class Packer:
    """Turns questions into packed token batches with the prompt of a checkpoint's chat template.

    Args:
        processor: transformers' `LlavaProcessor`.
        num_image_tokens: embeddings of one image.

    Raises:
        ConfigError: the chat template does not hold one image followed by the question.
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
        self._lead, probe, self._tail = after.partition(_PROBE)
        self._processor = processor
        if not image or not probe:
            raise ConfigError(
                "expected a chat template that puts the image before the question, "
                f"got {prompt!r}; use the processor of a LLaVA checkpoint"
            )
        self.prefix_ids: list[int] = tokenizer(before)["input_ids"]
        self.text_start = len(self.prefix_ids) + num_image_tokens

    def pack(self, batch: Sequence[Sequence[TextPair]]) -> PackedText:
        """One row per image, its questions one after the other.

        Raises:
            InvalidInput: a text would become a special token.
        """
        alone = [[(TextTurn(pair.text, pair.answer),) for pair in row] for row in batch]
        return self.pack_conversations(alone)

    def pack_conversations(self, batch: Sequence[Sequence[Sequence[TextTurn]]]) -> PackedText:
        """One row per image, its conversations one after the other.

        Raises:
            InvalidInput: a text would become a special token.
            ConfigError: a conversation has several turns, and the chat template does not show an
                answer between two questions.
        """
        rows = [self._row(row) for row in batch]
        longest = max(1, *(len(row[0]) for row in rows))
        fill = (self._pad, IGNORED, _PADDING_SEGMENT, self.text_start, 0)
        columns = zip(*rows, strict=True)
        return PackedText(
            *(
                torch.tensor([values + [blank] * (longest - len(values)) for values in column])
                for column, blank in zip(columns, fill, strict=True)
            )
        )

    def prompts(self, questions: Sequence[str]) -> list[list[int]]:
        """The token ids of each prompt from behind the image on, up to where its answer begins.

        Raises:
            InvalidInput: a text would become a special token.
        """
        wholes = [f"{self._image}{self._lead}{question}{self._tail}" for question in questions]
        encoded = self._fast.encode_batch(wholes, add_special_tokens=False)
        prompts = [whole.ids[1:] for whole in encoded]
        for question, ids in zip(questions, prompts, strict=True):
            self._refuse_specials(question, ids)
        return prompts

    def _row(self, conversations: Sequence[Sequence[TextTurn]]) -> tuple[list[int], ...]:
        """The columns of `PackedText` for one image."""
        row: tuple[list[int], ...] = ([], [], [], [], [])
        learned = 0
        # Every text from its beginning: then it is cut into tokens as in a whole prompt.
        texts = [text for turns in conversations for text in self._texts(turns)]
        encoded = iter(self._fast.encode_batch(texts, add_special_tokens=False))
        for number, turns in enumerate(conversations, 1):
            of_segment: list[int] = []
            answer_of: list[int] = []
            for turn in turns:
                # The first token is the image's; an answer's end token is a label only.
                start, whole = len(next(encoded).ids) - 1, next(encoded).ids[1:]
                between = self._between_specials if of_segment else 0
                self._refuse_specials(turn.text, whole[len(of_segment) :], between)
                learned += turn.learned
                own = learned if turn.learned else 0
                answer_of += [0] * (start - 1 - len(of_segment)) + [own] * (len(whole) - start + 1)
                of_segment = whole
            following = zip([*of_segment[1:], self._eos], answer_of, strict=True)
            labels = [token if answer else IGNORED for token, answer in following]
            positions = range(self.text_start, self.text_start + len(of_segment))
            segments = [number] * len(of_segment)
            columns = (of_segment, labels, segments, positions, answer_of)
            for column, more in zip(row, columns, strict=True):
                column += more
        return row

    def _texts(self, turns: Sequence[TextTurn]) -> list[str]:
        """A conversation up to where each answer begins, and up to where it ends."""
        texts = []
        said = f"{self._image}{self._lead}"
        for number, turn in enumerate(turns):
            said += f"{self._between if number else ''}{turn.text}{self._tail}"
            texts.append(said)
            said += f" {turn.answer}"
            texts.append(said)
        return texts

    @cached_property
    def _between(self) -> str:
        """What the chat template shows between an answer and the next question."""
        said = [{"type": "text", "text": _PROBE}]
        prompt: str = self._processor.apply_chat_template(
            [
                {"role": "user", "content": [{"type": "image"}, *said]},
                {"role": "assistant", "content": said},
                {"role": "user", "content": said},
            ],
            add_generation_prompt=True,
        )
        pieces = prompt.partition(self._image)[2].split(_PROBE)
        if len(pieces) != 4 or (pieces[1], pieces[3]) != (f"{self._tail} ", self._tail):
            raise ConfigError(
                "expected a chat template that shows an answer, behind a space, between two "
                f"questions, got {prompt!r}; use the processor of a LLaVA checkpoint"
            )
        return pieces[2]

    @cached_property
    def _between_specials(self) -> int:
        ids = self._fast.encode(self._between, add_special_tokens=False).ids
        return sum(token in self._specials for token in ids)

    def _refuse_specials(self, question: str, ids: Sequence[int], expected: int = 0) -> None:
        if sum(token in self._specials for token in ids) != expected:
            raise InvalidInput(
                "expected plain text, got a question or answer that holds the text of a special "
                f"token ({question[:80]!r}): remove it"
            )


def packed_logits(
    model: LlavaForConditionalGeneration,
    packer: Packer,
    image_embeds: Tensor,
    text: PackedText,
    patches: Tensor | None = None,
) -> Tensor:
    """Next-token logits of the text, `[B, S, V]`.

    `image_embeds` is `[B, P, H]`; `patches` `[B, P]` says which of the image's they are (default:
    all of them).
    """
    device = image_embeds.device
    count = len(image_embeds)
    embed = model.get_input_embeddings()
    prefix = torch.tensor(packer.prefix_ids, device=device).expand(count, -1)
    start = prefix.shape[1]
    where = (
        torch.arange(image_embeds.shape[1], device=device).expand(count, -1)
        if patches is None
        else patches
    )
    embeds = torch.cat([embed(prefix), image_embeds, embed(text.ids.to(device))], dim=1)
    positions = torch.cat(
        [
            torch.arange(start, device=device).expand(count, -1),
            where + start,
            text.positions.to(device),
        ],
        1,
    )
    lead = torch.full((count, start + image_embeds.shape[1]), _PREFIX_SEGMENT, device=device)
    mask = _block_mask(torch.cat([lead, text.segments.to(device)], dim=1))
    hidden = model.model.language_model(
        inputs_embeds=embeds, attention_mask=mask, position_ids=positions, use_cache=False
    ).last_hidden_state
    logits: Tensor = model.lm_head(hidden[:, lead.shape[1] :])
    return logits


def answer_loss(logits: Tensor, text: PackedText) -> tuple[Tensor, dict[str, float]]:
    """Loss over the tokens of all answers; accuracy of tokens and of whole answers.

    A token weighs one over the square root of its answer's length: long descriptions teach most
    tokens, but must not drown the questions with one-word answers.
    """
    labels = text.labels.to(logits.device)
    asked = labels != IGNORED
    weight = _answer_lengths(text).to(logits.device).rsqrt() * asked
    each = F.cross_entropy(
        logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED, reduction="none"
    )
    loss = (each * weight.flatten()).sum() / weight.sum()
    right = (logits.argmax(-1) == labels) | ~asked
    answers = [value for row in right_answers(logits, text) for value in row]
    metrics = {
        "tokens": right[asked].float().mean().item(),
        "answers": sum(answers) / max(1, len(answers)),
    }
    return loss, metrics


def _answer_lengths(text: PackedText) -> Tensor:
    """For every token, how many label tokens its answer has, at least 1, `[B, S]` float32."""
    counts = torch.zeros(len(text.answers), int(text.answers.max()) + 1)
    counts.scatter_add_(1, text.answers, (text.labels != IGNORED).float())
    return counts.gather(1, text.answers).clamp(min=1)


def right_answers(logits: Tensor, text: PackedText) -> list[list[bool]]:
    """Per image and learned answer: would greedy decoding give exactly the expected one?

    It would if the largest logit is the expected token at every answer position, end included.
    """
    labels = text.labels.to(logits.device)
    wrong = (logits.argmax(-1) != labels) & (labels != IGNORED)
    verdicts = []
    for row_wrong, row_answers in zip(wrong.cpu(), text.answers.cpu(), strict=True):
        count = int(row_answers.max())
        verdicts.append([not bool(row_wrong[row_answers == a].any()) for a in range(1, count + 1)])
    return verdicts


def _block_mask(segments: Tensor) -> Tensor:
    """Causal mask `[B, 1, L, L]`: a segment sees the prefix and itself; True means visible."""
    length = segments.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    same = segments[:, :, None] == segments[:, None, :]
    lead = (segments == _PREFIX_SEGMENT)[:, None, :]
    return (causal & (same | lead))[:, None]
