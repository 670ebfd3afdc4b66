"""A checkpoint's chat template, taken apart: the text around questions and answers.

The template never sees a user's text: it is rendered around probes, and what it wrote between them
is kept.
"""

from __future__ import annotations

import re
from typing import Any

from jinja2 import TemplateError

from aligned_vq.errors import ConfigError, InvalidInput

PROBE = "0a1b2c3d"
"""Stands for a text while the template is taken apart."""


class ChatTemplate:
    """The pieces of a template, by how many turns come before the question.

    Args:
        processor: transformers' `LlavaProcessor`. Where it has no template, LLaVA-1.5's convention
            is followed.

    Raises:
        ConfigError: the template does not show image and question once each.
    """

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self._image_token: str = processor.image_token
        self._end: str = processor.tokenizer.eos_token or ""
        self._own = bool(getattr(processor, "chat_template", None))
        self._known: dict[tuple[int, bool], tuple[str, ...]] = {}
        self.around(0, False)

    def around(self, turns: int, text_only: bool) -> tuple[str, ...]:
        """What stands before, between and after the texts of a prompt: questions and answers of
        `turns` turns and a last question, the image with the first question unless `text_only`.

        Raises:
            InvalidInput: the template has no place for one of them.
        """
        shape = (turns, text_only)
        if shape not in self._known:
            self._known[shape] = self._taken_apart(turns, text_only)
        return self._known[shape]

    def _taken_apart(self, turns: int, text_only: bool) -> tuple[str, ...]:
        probes = [f"{PROBE}x{number}x" for number in range(2 * turns + 1)]
        if self._own:
            rendered = self._rendered(probes, text_only)
        else:
            rendered = self._conventional(probes, text_only)
        shown = re.findall(f"{PROBE}x[0-9]+x", rendered)
        images = rendered.count(self._image_token)
        if shown != probes or images != (not text_only):
            if turns or text_only:
                raise InvalidInput(
                    "expected a conversation that this model's chat template can show, got "
                    f"{turns} turns before the question and {'no' if text_only else 'an'} image; "
                    "ask single questions about an image"
                )
            raise ConfigError(
                "expected a chat template that shows the image and the question once each, got "
                f"{images} and {len(shown)}; mend the checkpoint's chat_template"
            )
        return tuple(re.split(f"{PROBE}x[0-9]+x", rendered))

    def _rendered(self, probes: list[str], text_only: bool) -> str:
        """By the checkpoint's own template; empty where it refuses."""
        messages: list[dict[str, Any]] = []
        for number, probe in enumerate(probes):
            content = [{"type": "text", "text": probe}]
            if number == 0 and not text_only:
                content.insert(0, {"type": "image"})
            messages.append({"role": ("user", "assistant")[number % 2], "content": content})
        try:
            text: str = self._processor.apply_chat_template(messages, add_generation_prompt=True)
        except (TemplateError, TypeError):
            return ""
        return text

    def _conventional(self, probes: list[str], text_only: bool) -> str:
        """LLaVA-1.5's: `USER: <image>\\n... ASSISTANT: ...</s>USER: ... ASSISTANT:`."""
        image = "" if text_only else f"{self._image_token}\n"
        text = f"USER: {image}{probes[0]} ASSISTANT:"
        for answer, question in zip(probes[1::2], probes[2::2], strict=True):
            text += f" {answer}{self._end}USER: {question} ASSISTANT:"
        return text
