"""Builds prompt tokens from a conversation. User text never becomes a special or role token."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aligned_vq.errors import AlignedVQError, InvalidInput
from cloud_server.chat_template import PROBE, ChatTemplate
from protos.messages import Turn

_ALLOWED_CONTROL = "\n\t"


@dataclass(frozen=True)
class PromptLimits:
    """Limits on a prompt and its texts.

    `context_tokens` limits prompt and answer together, `max_history_chars` all earlier questions
    and answers together.
    """

    context_tokens: int
    max_question_chars: int = 2000
    max_turns: int = 32
    max_history_chars: int = 16_000


class PromptBuilder:
    """Builds prompts with the checkpoint's chat template: turns, a question, maybe an image.

    Args:
        processor: transformers' `LlavaProcessor`.
        num_image_tokens: placeholders for one image.
        limits: on prompts and their texts.

    Raises:
        ConfigError: the chat template does not show image and question once each.
    """

    def __init__(self, processor: Any, num_image_tokens: int, limits: PromptLimits) -> None:
        self._tokenizer = processor.tokenizer
        self._image_token: str = processor.image_token
        self._image_token_id: int = self._tokenizer.convert_tokens_to_ids(self._image_token)
        self._template = ChatTemplate(processor)
        self.num_image_tokens = num_image_tokens
        self.limits = limits
        # Longest first, so that an error names the whole token and not a part of it.
        self._specials = sorted(
            {self._image_token, *self._tokenizer.all_special_tokens}
            | {str(added) for added in self._tokenizer.get_added_vocab()},
            key=len,
            reverse=True,
        )
        self._roles = self._role_markers()
        self._special_ids = set(self._tokenizer.convert_tokens_to_ids(self._specials))
        # A word's tokens may differ at the start of a text and after a space.
        self._role_ids = [
            self._tokenizer(text, add_special_tokens=False)["input_ids"]
            for role in self._roles
            for text in (role, f" {role}")
        ]
        self._expected_counts: dict[tuple[int, bool], tuple[int, int, int]] = {}

    def build(
        self, question: str, turns: Sequence[Turn] = (), *, text_only: bool = False
    ) -> list[int]:
        """Token ids of the prompt, with image placeholders unless `text_only`.

        The image precedes the first question. The client may have changed earlier answers, so they
        are checked like questions.

        Raises:
            InvalidInput: a question is empty, there are too many turns, or a text is too long or
                would act as more than text.
        """
        self._check_history(turns)
        if len(question) > self.limits.max_question_chars:
            raise InvalidInput(
                f"expected a question of at most {self.limits.max_question_chars} characters, "
                f"got {len(question)}; shorten it"
            )
        texts = []
        for number, turn in enumerate(turns, 1):
            texts.append(self._checked(turn.question, f"question {number} of the conversation"))
            texts.append(self._checked(turn.answer, f"answer {number} of the conversation", True))
        texts.append(self._checked(question, "the question"))
        ids = self._tokenize(texts, text_only)
        # Whatever the tokenizer's normalisation does to a text, it must not add a special or role
        # token.
        if self._marker_counts(ids) != self._template_counts(len(turns), text_only):
            raise InvalidInput(
                "expected plain text, got a question whose tokens act as a role marker or special "
                f"token ({', '.join([*self._roles, self._image_token])}); reword it"
            )
        if not text_only:
            position = ids.index(self._image_token_id)
            # Expanded after tokenisation: hundreds of placeholders need not be tokenised.
            expanded = [self._image_token_id] * self.num_image_tokens
            ids = [*ids[:position], *expanded, *ids[position + 1 :]]
        self._check_length(len(ids), text_only)
        return ids

    def _check_history(self, turns: Sequence[Turn]) -> None:
        if len(turns) > self.limits.max_turns:
            raise InvalidInput(
                f"expected at most {self.limits.max_turns} turns before a question, "
                f"got {len(turns)}; leave the oldest out"
            )
        chars = sum(len(question) + len(answer) for question, answer in turns)
        if chars > self.limits.max_history_chars:
            raise InvalidInput(
                f"expected at most {self.limits.max_history_chars} characters before a question, "
                f"got {chars}; leave the oldest turns out"
            )

    def _check_length(self, tokens: int, text_only: bool) -> None:
        context = self.limits.context_tokens
        if tokens >= context:
            image = "" if text_only else f" with the image's {self.num_image_tokens}"
            raise InvalidInput(
                f"expected a question that fits the context of {context} tokens{image}, "
                f"got {tokens} tokens in all; shorten it"
            )

    def _checked(self, text: str, name: str, may_be_empty: bool = False) -> str:
        """The text as it goes into the prompt; `name` identifies it in errors."""
        text = text.replace("\r\n", "\n")
        if not text.strip() and not may_be_empty:
            raise InvalidInput("expected a question, got an empty one; ask something")
        for position, char in enumerate(text):
            if unicodedata.category(char) in ("Cc", "Cs") and char not in _ALLOWED_CONTROL:
                raise InvalidInput(
                    f"expected plain text, got the control character U+{ord(char):04X} at position "
                    f"{position} of {name}; remove it"
                )
        for special in self._specials:
            if special in text:
                raise InvalidInput(
                    f"expected plain text, got the reserved token {special!r} in {name}; remove it"
                )
        # A tokenizer may encode the same word differently after a newline, or fold letters, so
        # comparing token counts alone would miss some role markers.
        folded = unicodedata.normalize("NFKC", text).casefold()
        for role in self._roles:
            if role.casefold() in folded:
                raise InvalidInput(
                    f"expected plain text, got the role marker {role!r} in {name}; reword it"
                )
        return text.strip()

    def _tokenize(self, texts: Sequence[str], text_only: bool) -> list[int]:
        try:
            return self._encode(texts, text_only)
        except (AlignedVQError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic in the Rust tokenizer is no Exception
            raise InvalidInput(
                "expected text that the model's tokenizer can read, got one that it failed "
                f"on ({type(error).__name__}); reword it"
            ) from error

    def _encode(self, texts: Sequence[str], text_only: bool) -> list[int]:
        """Token ids with one placeholder for the image, if there is one."""
        literals = self._template.literals(len(texts) // 2, text_only)
        # One literal more than texts: the last one follows the last text.
        parts = [part for pair in zip(literals, texts, strict=False) for part in pair]
        ids: list[int] = self._tokenizer("".join([*parts, literals[-1]]))["input_ids"]
        return ids

    def _template_counts(self, turns: int, text_only: bool) -> tuple[int, int, int]:
        shape = (turns, text_only)
        if shape not in self._expected_counts:
            self._expected_counts[shape] = self._marker_counts(
                self._encode([PROBE] * (2 * turns + 1), text_only)
            )
        return self._expected_counts[shape]

    def _marker_counts(self, ids: Sequence[int]) -> tuple[int, int, int]:
        """The number of image, special and role tokens in a prompt."""
        roles = sum(_occurrences(role, ids) for role in self._role_ids)
        specials = sum(token in self._special_ids for token in ids)
        return sum(token == self._image_token_id for token in ids), specials, roles

    def _role_markers(self) -> list[str]:
        """The template's role markers: the words right before the image and before the answer."""
        before_image, before_answer = self._template.literals(0, False)
        leading = before_image.split(self._image_token)[0].split()
        words = [*leading[-1:], *before_answer.split()[-1:]]
        # Plain words such as `user` also occur in questions; markers such as `USER:` hardly do.
        return [word for word in words if not word.isalnum()]


def _occurrences(pattern: Sequence[int], ids: Sequence[int]) -> int:
    if not pattern:
        return 0
    size = len(pattern)
    return sum(list(ids[i : i + size]) == list(pattern) for i in range(len(ids) - size + 1))
