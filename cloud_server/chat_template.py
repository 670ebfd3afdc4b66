"""Splits a checkpoint's chat template into the literal text around questions and answers.

The template never sees a user's text: it is rendered with probe strings in place of the texts, and
the rendered text is split at the probes. So nothing a user types can act as template syntax.
"""

from __future__ import annotations

import re
from typing import Any

from jinja2 import TemplateError

from aligned_vq.errors import ConfigError, InvalidInput

PROBE = "0a1b2c3d"
"""Stands for a text while the template is rendered."""


class ChatTemplate:
    """The literal text of a template, by the number of turns before the question.

    Args:
        processor: transformers' `LlavaProcessor`; without a template, LLaVA-1.5's format is used.

    Raises:
        ConfigError: the template does not show image and question once each.
    """

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self._image_token: str = processor.image_token
        self._end: str = processor.tokenizer.eos_token or ""
        self._has_template = bool(getattr(processor, "chat_template", None))
        self._literals: dict[tuple[int, bool], tuple[str, ...]] = {}
        # Fail at the start, not at the first question, if the template is unusable.
        self.literals(0, False)

    def literals(self, turns: int, text_only: bool) -> tuple[str, ...]:
        """The literal text before, between and after the texts of a prompt.

        The texts are the questions and answers of `turns` turns and a last question. The image
        placeholder comes with the first question unless `text_only`.

        Raises:
            InvalidInput: the template cannot render such a conversation.
        """
        # Rendering takes milliseconds, and the result depends on nothing else.
        shape = (turns, text_only)
        if shape not in self._literals:
            self._literals[shape] = self._split(turns, text_only)
        return self._literals[shape]

    def _split(self, turns: int, text_only: bool) -> tuple[str, ...]:
        probes = [f"{PROBE}x{index}x" for index in range(2 * turns + 1)]
        if self._has_template:
            rendered = self._render(probes, text_only)
        else:
            rendered = self._render_default(probes, text_only)
        rendered_probes = re.findall(f"{PROBE}x[0-9]+x", rendered)
        images = rendered.count(self._image_token)
        if rendered_probes != probes or images != (not text_only):
            if turns or text_only:
                raise InvalidInput(
                    "expected a conversation that this model's chat template can show, got "
                    f"{turns} turns before the question and {'no' if text_only else 'an'} image; "
                    "ask single questions about an image"
                )
            raise ConfigError(
                "expected a chat template that shows the image and the question once each, got "
                f"{images} and {len(rendered_probes)}; repair the checkpoint's chat_template"
            )
        return tuple(re.split(f"{PROBE}x[0-9]+x", rendered))

    def _render(self, probes: list[str], text_only: bool) -> str:
        """The probes in the checkpoint's template; empty if the template raises an error."""
        messages: list[dict[str, Any]] = []
        for index, probe in enumerate(probes):
            content = [{"type": "text", "text": probe}]
            if index == 0 and not text_only:
                content.insert(0, {"type": "image"})
            messages.append({"role": ("user", "assistant")[index % 2], "content": content})
        try:
            text: str = self._processor.apply_chat_template(messages, add_generation_prompt=True)
        # Templates refuse conversations they do not support in either of these ways.
        except (TemplateError, TypeError):
            return ""
        return text

    def _render_default(self, probes: list[str], text_only: bool) -> str:
        """The probes in LLaVA-1.5's format: `USER: <image>\\n... ASSISTANT: ...</s>USER: ...`."""
        image = "" if text_only else f"{self._image_token}\n"
        text = f"USER: {image}{probes[0]} ASSISTANT:"
        for answer, question in zip(probes[1::2], probes[2::2], strict=True):
            text += f" {answer}{self._end}USER: {question} ASSISTANT:"
        return text
