"""Who answers questions about a picture: a model in this process, or a cloud behind an edge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from PIL import Image
from torch import Tensor

from aligned_vq.evaluation.llava import FeaturePath, LoadedLlava

QUESTIONS_AT_ONCE = 8
"""About one picture, in one batch: which ones go together must not depend on how work is shared."""


class PictureAnswers(NamedTuple):
    """What was said about one picture."""

    answers: list[str]
    payload_bytes: int | None
    """Body of the payload that the answers came from; None where none was sent."""


class ImageAnswerer(Protocol):
    """Answers questions about one picture, the same whatever was asked before."""

    def __call__(self, picture: Image.Image, questions: Sequence[str]) -> PictureAnswers:
        """Greedy answers, one for each question, without space around them."""


class LocalAnswerer:
    """A LLaVA that reads what a path brought it.

    Args:
        llava: the model.
        path: from a picture to what the projector reads; None: the unsplit model.
        max_tokens: of an answer.
    """

    def __init__(self, llava: LoadedLlava, path: FeaturePath | None, max_tokens: int) -> None:
        self._llava = llava
        self._path = path
        self._max_tokens = max_tokens

    @torch.inference_mode()
    def __call__(self, picture: Image.Image, questions: Sequence[str]) -> PictureAnswers:
        """See `ImageAnswerer`; InvalidInput where a question holds a special token's text."""
        path = self._path or self._llava.unsplit
        output = path([picture], self._llava.pixels([picture]))
        model = self._llava.model
        image = model.model.multi_modal_projector(output.states.to(model.dtype))[0]
        answers: list[str] = []
        for start in range(0, len(questions), QUESTIONS_AT_ONCE):
            answers += self._answer(image, questions[start : start + QUESTIONS_AT_ONCE])
        return PictureAnswers(answers, None if self._path is None else output.sent_bytes[0])

    def _answer(self, image: Tensor, questions: Sequence[str]) -> list[str]:
        llava = self._llava
        embed, tokenizer = llava.model.get_input_embeddings(), llava.tokenizer
        prompts = llava.packer.prompts(questions)
        blank = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        longest = max(map(len, prompts))

        def embedded(ids: Sequence[int]) -> Tensor:
            found: Tensor = embed(torch.tensor(ids, dtype=torch.int64, device=llava.device))
            return found

        lead = torch.cat([embedded(llava.packer.prefix_ids), image])
        rows, seen = [], []
        for ids in prompts:
            missing = longest - len(ids)  # on the left: answers begin side by side
            rows.append(torch.cat([embedded([blank] * missing), lead, embedded(ids)]))
            seen.append([0] * missing + [1] * (len(lead) + len(ids)))
        tokens = llava.model.generate(
            inputs_embeds=torch.stack(rows),
            attention_mask=torch.tensor(seen, device=llava.device),
            max_new_tokens=self._max_tokens,
            do_sample=False,
            num_beams=1,
            pad_token_id=blank,
        )
        texts = tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [text.strip() for text in texts]


class QuestionClient(Protocol):
    """What is wanted of `edge_client.EdgeClient`, which this package does not know."""

    def compress(self, image: Image.Image, *, quality: str | None = None) -> Any:
        """An encoded image, with a `payload`."""

    def ask(self, image: Any, question: str, *, max_tokens: int) -> str:
        """The whole answer."""


class CloudAnswerer:
    """A cloud that serves the bundle, asked through an edge client, one question after the other.

    Args:
        client: connected or ready to be.
        point: operating point of the bundle; None: its default.
        max_tokens: of an answer.
    """

    def __init__(self, client: QuestionClient, point: str | None, max_tokens: int) -> None:
        self._client = client
        self._point = point
        self._max_tokens = max_tokens

    def __call__(self, picture: Image.Image, questions: Sequence[str]) -> PictureAnswers:
        """See `ImageAnswerer`. Raises as `EdgeClient.ask`."""
        payload = self._client.compress(picture, quality=self._point).payload
        answers = [
            str(self._client.ask(payload, question, max_tokens=self._max_tokens)).strip()
            for question in questions
        ]
        return PictureAnswers(answers, len(payload.body))


def padded(picture: Image.Image, mean: Sequence[float]) -> Image.Image:
    """The picture in the middle of a square of its longer side, on the processor's mean colour.

    LLaVA-1.5 was trained and examined so, while the processors of its conversions crop.
    """
    side = max(picture.size)
    if picture.size == (side, side):
        return picture
    red, green, blue = (int(channel * 255) for channel in mean)
    square = Image.new("RGB", (side, side), (red, green, blue))
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square
