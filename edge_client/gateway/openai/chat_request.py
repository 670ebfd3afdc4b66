"""A request of OpenAI's chat API: fields that are read, ignored or refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from aligned_vq.answers import Sampling
from aligned_vq.images.modality import CameraModality
from edge_client.gateway.openai.refusal import Refusal
from protos.messages import (
    MAX_ANSWER_TOKENS,
    MAX_SEED,
    MAX_STOP_CHARS,
    MAX_STOPS,
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    MIN_TOP_P,
    is_temperature,
)

MAX_MESSAGES = 256
_IGNORED = (
    *("user", "metadata", "store", "service_tier", "safety_identifier", "parallel_tool_calls"),
    *("prompt_cache_key", "prompt_cache_retention", "reasoning_effort", "verbosity"),
)
"""Fields without effect on this model's answers."""
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "n": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}
"""Fields without effect at these values; other values are refused, as they are not supported."""


class _Strict(BaseModel):
    """Base of the nested models: types are not converted, additional fields are ignored."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, hide_input_in_errors=True)


class TextPart(_Strict):
    """Text in a message."""

    type: Literal["text"]
    text: str


class ImageUrl(_Strict):
    """An image as a data URI. `detail` is ignored, as the bundle has one resolution."""

    url: str
    detail: str | None = None


# Shorthands that clients use: a URL, a text or one stop text in place of an object or a list.
def _as_object(url: object) -> object:
    return {"url": url} if isinstance(url, str) else url


def _as_parts(content: object) -> object:
    if content is None:
        return []
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _as_list(stop: object) -> object:
    return [stop] if isinstance(stop, str) else stop


class ImagePart(_Strict):
    """An image in a message."""

    type: Literal["image_url"]
    image_url: Annotated[ImageUrl, BeforeValidator(_as_object)]


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Message(_Strict):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[list[Part], BeforeValidator(_as_parts)] = Field(default_factory=list)


class StreamOptions(_Strict):
    """Options of a streamed answer."""

    include_usage: bool | None = None


def _check_temperature(temperature: float) -> float:
    if not is_temperature(temperature):
        raise ValueError(
            f"a temperature is 0 for greedy answers or {MIN_TEMPERATURE:g} to {MAX_TEMPERATURE:g}"
        )
    return temperature


_Temperature = Annotated[float, AfterValidator(_check_temperature)]
_StopText = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]


class ChatRequest(BaseModel):
    """The fields of a chat completion that are read here. Two extend OpenAI's API: `quality`, the
    operating point of the bundle, and `modality`, what the camera of the image measures."""

    model_config = ConfigDict(
        strict=True, allow_inf_nan=False, hide_input_in_errors=True, extra="allow"
    )

    model: str
    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: _Temperature | None = None
    top_p: float | None = Field(None, ge=MIN_TOP_P, le=1)
    stop: Annotated[list[_StopText] | None, BeforeValidator(_as_list)] = Field(
        None, max_length=MAX_STOPS
    )
    seed: int | None = Field(None, ge=0, le=MAX_SEED)
    quality: str | None = None
    modality: CameraModality | None = None

    def check_unread_fields(self) -> None:
        """Refusal if a field that is not read here would have an effect in OpenAI's API."""
        unread: dict[str, Any] = self.model_extra or {}
        for name, value in unread.items():
            # Some clients send null for fields that they do not set.
            if value is None or name in _IGNORED:
                continue
            neutral = _NEUTRAL.get(name)
            if neutral is None:
                raise Refusal(
                    400,
                    f"expected fields that this gateway supports, got {name[:64]!r}; leave it out",
                    name[:64],
                    "unknown_parameter",
                )
            if value not in neutral:
                raise Refusal(
                    400,
                    f"expected {name} to be {' or '.join(map(repr, neutral))}, got something else, "
                    "which is not supported here; leave it out",
                    name,
                    "unsupported_value",
                )

    @property
    def sampling(self) -> Sampling:
        """Sampling settings: greedy unless a temperature is given."""
        # 0 stands for the service's default. OpenAI deprecates `max_tokens`, but clients send it.
        max_tokens = self.max_completion_tokens or self.max_tokens or 0
        return Sampling(
            max_tokens=min(max_tokens, MAX_ANSWER_TOKENS),
            temperature=self.temperature or 0.0,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=self.seed,
            stop=tuple(self.stop or ()),
        )

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk of token counts."""
        return bool(self.stream_options and self.stream_options.include_usage)
