"""Converts OpenAI's messages to a conversation: turns, a question, and at most one image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from edge_client.gateway.openai.chat_request import ImagePart, Message, TextPart
from edge_client.gateway.openai.refusal import Refusal

_INSTRUCTIONS = ("system", "developer")


@dataclass
class _Utterance:
    """The texts of consecutive messages of one role."""

    role: str
    texts: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Conversation:
    """A question with its history. User text stays out of `repr`, and so out of tracebacks."""

    question: str = field(repr=False)
    turns: tuple[tuple[str, str], ...] = field(repr=False)
    image_url: str | None = field(repr=False)
    image_param: str = ""
    """Position of the image in the request."""


def read_conversation(messages: Sequence[Message]) -> Conversation:
    """The conversation in messages.

    Consecutive messages of one role are joined. The model was trained without system messages, so
    instructions are put before the first question, on separate lines.

    Raises:
        Refusal: the roles do not alternate from a first to a last question, or there is more than
            one image.
    """
    utterances: list[_Utterance] = []
    instructions: list[str] = []
    for number, message in enumerate(messages):
        text = "\n".join(part.text for part in message.content if isinstance(part, TextPart))
        if message.role in _INSTRUCTIONS:
            if utterances:
                raise _wrong(number, "instructions before the first question", "some after it")
            instructions.append(text)
            continue
        if not utterances or utterances[-1].role != message.role:
            if not utterances and message.role == "assistant":
                raise _wrong(number, "a question first", "an answer without one")
            utterances.append(_Utterance(message.role))
        utterances[-1].texts.append(text)
    last = len(messages) - 1
    if not utterances:
        raise _wrong(last, "a question", "instructions alone")
    if utterances[-1].role == "assistant":
        raise _wrong(last, "a question last", "an answer; continuing one is not supported here")
    # Questions at even positions, answers at odd ones, and a question last.
    texts = ["\n".join(filter(None, utterance.texts)) for utterance in utterances]
    if not all(question.strip() for question in texts[::2]):
        raise Refusal(400, "expected a question, got an empty one; ask something", "messages")
    texts[0] = "\n".join(filter(None, [*instructions, texts[0]]))
    turns = tuple(zip(texts[:-1:2], texts[1::2], strict=True))
    url, param = _image(messages)
    return Conversation(texts[-1], turns, url, param)


def _image(messages: Sequence[Message]) -> tuple[str | None, str]:
    """URL and first position of the conversation's image, which may be repeated."""
    url, first_param = None, ""
    for number, message in enumerate(messages):
        for position, part in enumerate(message.content):
            if not isinstance(part, ImagePart):
                continue
            param = f"messages[{number}].content[{position}].image_url"
            if message.role != "user":
                raise Refusal(
                    400,
                    f"expected images in the user's messages, got one in a message of the "
                    f"{message.role}; move it",
                    param,
                )
            if url is None:
                url, first_param = part.image_url.url, param
            # Clients send the whole history with each question, and may repeat the image in it.
            elif url != part.image_url.url:
                raise Refusal(
                    400,
                    "expected one image in a conversation, got another one; ask about it in a "
                    "separate conversation",
                    param,
                    "too_many_images",
                )
    return url, first_param


def _wrong(number: int, expected: str, got: str) -> Refusal:
    return Refusal(
        400, f"expected {expected}, got {got}; change the messages", f"messages[{number}].role"
    )
