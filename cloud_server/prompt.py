"""From a question to prompt tokens. What a user types never becomes a special or role token."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

from aligned_vq.errors import ConfigError, InvalidInput

_PROBE = "0a1b2c3d"  # stands for the question while the template is taken apart
_ALLOWED_CONTROL = "\n\t"
_FALLBACK_TEMPLATE = ("USER: ", "\n{question} ASSISTANT:")


class PromptBuilder:
    """Builds the prompt of the checkpoint's own chat template around one image and one question.

    Args:
        processor: transformers' `LlavaProcessor`.
        num_image_tokens: placeholders the image takes.
        context_tokens: longest prompt and answer together.
        max_question_chars: longest question.
    """

    def __init__(
        self,
        processor: Any,
        num_image_tokens: int,
        context_tokens: int,
        max_question_chars: int,
    ) -> None:
        self._tokenizer = processor.tokenizer
        self._image_token: str = processor.image_token
        self._image_token_id: int = self._tokenizer.convert_tokens_to_ids(self._image_token)
        self.num_image_tokens = num_image_tokens
        self.context_tokens = context_tokens
        self.max_question_chars = max_question_chars
        self._before, self._after = _template_around_question(processor, self._image_token)
        self._specials = sorted(
            {self._image_token, *self._tokenizer.all_special_tokens}
            | {str(added) for added in self._tokenizer.get_added_vocab()},
            key=len,
            reverse=True,
        )
        self._roles = self._role_words()
        self._special_ids = set(self._tokenizer.convert_tokens_to_ids(self._specials))
        self._role_ids = [
            self._tokenizer(text, add_special_tokens=False)["input_ids"]
            for word in self._roles
            for text in (word, f" {word}")
        ]
        self._base_marks = self._marks(self._encode(_PROBE))

    def build(self, question: str) -> list[int]:
        """Token ids of the prompt, image placeholders included.

        Raises:
            InvalidInput: the question is empty, too long, or would act as more than text.
        """
        question = question.replace("\r\n", "\n")
        self._check_text(question)
        ids = self._encode(question.strip())
        if self._marks(ids) != self._base_marks:
            raise InvalidInput(
                "expected plain text, got a question whose tokens act as a role marker or special "
                f"token ({', '.join([*self._roles, self._image_token])}); reword it"
            )
        place = ids.index(self._image_token_id)
        expanded = [self._image_token_id] * self.num_image_tokens
        whole = [*ids[:place], *expanded, *ids[place + 1 :]]
        if len(whole) >= self.context_tokens:
            raise InvalidInput(
                f"expected a question that fits the context of {self.context_tokens} tokens with "
                f"the image's {self.num_image_tokens}, got {len(whole)} tokens in all; shorten it"
            )
        return whole

    def _check_text(self, question: str) -> None:
        if not question.strip():
            raise InvalidInput("expected a question, got an empty one; ask something")
        if len(question) > self.max_question_chars:
            raise InvalidInput(
                f"expected a question of at most {self.max_question_chars} characters, "
                f"got {len(question)}; shorten it"
            )
        for place, char in enumerate(question):
            if unicodedata.category(char) in ("Cc", "Cs") and char not in _ALLOWED_CONTROL:
                raise InvalidInput(
                    f"expected plain text, got the control character U+{ord(char):04X} at position "
                    f"{place}; remove it"
                )
        for special in self._specials:
            if special in question:
                raise InvalidInput(
                    f"expected plain text, got the reserved token {special!r} in the question; "
                    "remove it"
                )
        # A tokenizer may write the same word differently after a newline, or fold its letters, so
        # counting tokens alone would miss some of them.
        folded = unicodedata.normalize("NFKC", question).casefold()
        for role in self._roles:
            if role.casefold() in folded:
                raise InvalidInput(
                    f"expected plain text, got the role marker {role!r} in the question; reword it"
                )

    def _encode(self, question: str) -> list[int]:
        """Ids with one placeholder, which stands for as many as the image takes."""
        ids: list[int] = self._tokenizer(self._before + question + self._after)["input_ids"]
        return ids

    def _marks(self, ids: Sequence[int]) -> tuple[int, int, int]:
        """How many image, special and role tokens a prompt holds."""
        roles = sum(_occurrences(role, ids) for role in self._role_ids)
        specials = sum(token in self._special_ids for token in ids)
        return sum(token == self._image_token_id for token in ids), specials, roles

    def _role_words(self) -> list[str]:
        """The template's own words right before the image and right before the answer."""
        lead = self._before.split(self._image_token)[0].split()
        words = [*lead[-1:], *self._after.split()[-1:]]
        return [word for word in words if not word.isalnum()]


def _template_around_question(processor: Any, image_token: str) -> tuple[str, str]:
    """The prompt's text before and after the question."""
    if not getattr(processor, "chat_template", None):
        lead, rest = _FALLBACK_TEMPLATE
        before, after = rest.split("{question}")
        return lead + image_token + before, after
    content = [{"type": "image"}, {"type": "text", "text": _PROBE}]
    rendered: str = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    if rendered.count(_PROBE) != 1 or rendered.count(image_token) != 1:
        raise ConfigError(
            "expected a chat template that shows the image and the question once each, got "
            f"{rendered.count(image_token)} and {rendered.count(_PROBE)}; mend the checkpoint's "
            "chat_template"
        )
    before, after = rendered.split(_PROBE)
    return before, after


def _occurrences(needle: Sequence[int], ids: Sequence[int]) -> int:
    if not needle:
        return 0
    size = len(needle)
    return sum(list(ids[i : i + size]) == list(needle) for i in range(len(ids) - size + 1))
