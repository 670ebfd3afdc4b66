"""OpenAI's messages as what the cloud answers: turns, a question, and at most one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from edge_client.gateway.openai.chat_request import ImagePart, Message, TextPart
from edge_client.gateway.openai.refusal import Refusal

_INSTRUCTIONS = ("system", "developer")


@dataclass
class _Side:
    """What one side said before the other's next words."""

    role: str
    texts: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Conversation:
    """A question with what came before it; its texts are the user's and stay out of `repr`."""

    question: str = field(repr=False)
    turns: tuple[tuple[str, str], ...] = field(repr=False)
    image_url: str | None = field(repr=False)
    image_param: str = ""
    """Where the picture is in the request."""


def read_conversation(messages: Sequence[Message]) -> Conversation:
    """Messages of one role that follow each other count as one. The model was taught no system
    messages, so instructions stand before the first question, on lines of their own.

    Raises:
        Refusal: the roles do not alternate from a question to a question, or there is more than one
            picture.
    """
    sides: list[_Side] = []
    instructions: list[str] = []
    for number, message in enumerate(messages):
        text = "\n".join(part.text for part in message.content if isinstance(part, TextPart))
        if message.role in _INSTRUCTIONS:
            if sides:
                raise _wrong(number, "instructions before the first question", "some after it")
            instructions.append(text)
            continue
        if not sides or sides[-1].role != message.role:
            if not sides and message.role == "assistant":
                raise _wrong(number, "a question first", "an answer without one")
            sides.append(_Side(message.role))
        sides[-1].texts.append(text)
    last = len(messages) - 1
    if not sides:
        raise _wrong(last, "a question", "instructions alone")
    if sides[-1].role == "assistant":
        raise _wrong(last, "a question last", "an answer; continuing one is not offered here")
    said = ["\n".join(filter(None, side.texts)) for side in sides]
    if not all(text.strip() for text in said[::2]):
        raise Refusal(400, "expected a question, got an empty one; ask something", "messages")
    said[0] = "\n".join(filter(None, [*instructions, said[0]]))
    url, param = _picture(messages)
    return Conversation(said[-1], tuple(zip(said[:-1:2], said[1::2], strict=True)), url, param)


def _picture(messages: Sequence[Message]) -> tuple[str | None, str]:
    """The conversation's picture and where it is first; it may be repeated."""
    url, where = None, ""
    for number, message in enumerate(messages):
        for place, part in enumerate(message.content):
            if not isinstance(part, ImagePart):
                continue
            param = f"messages[{number}].content[{place}].image_url"
            if message.role != "user":
                raise Refusal(
                    400,
                    f"expected images in the user's messages, got one in a message of the "
                    f"{message.role}; move it",
                    param,
                )
            if url is None:
                url, where = part.image_url.url, param
            elif url != part.image_url.url:
                raise Refusal(
                    400,
                    "expected one image in a conversation, got another one; ask about it in a "
                    "conversation of its own",
                    param,
                    "too_many_images",
                )
    return url, where


def _wrong(number: int, expected: str, got: str) -> Refusal:
    return Refusal(
        400, f"expected {expected}, got {got}; change the messages", f"messages[{number}].role"
    )
