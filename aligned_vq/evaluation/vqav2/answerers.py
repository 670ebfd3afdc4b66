"""Answering of questions about an image, by a model in this process or by a cloud service."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from PIL import Image
from torch import Tensor

from aligned_vq.evaluation.llava import FeaturePath, LoadedLlava

QUESTIONS_AT_ONCE = 8
"""Batch size for questions about one image. Batches are always formed alike, because rounding, and
so an answer, may depend on the batch."""


class ImageAnswers(NamedTuple):
    """The answers to questions about one image."""

    answers: list[str]
    payload_bytes: int | None
    """Size of the image's payload body; None if no payload was sent."""


class ImageAnswerer(Protocol):
    """Answers questions about one image, independently of earlier questions."""

    def __call__(self, image: Image.Image, questions: Sequence[str]) -> ImageAnswers:
        """Greedy answers, one for each question, without surrounding white space."""


class LocalAnswerer:
    """Answers with a LLaVA in this process.

    Args:
        llava: the model.
        path: from an image to the projector's input; None: the unsplit model.
        max_tokens: maximum tokens of an answer.
    """

    def __init__(self, llava: LoadedLlava, path: FeaturePath | None, max_tokens: int) -> None:
        self._llava = llava
        self._path = path
        self._max_tokens = max_tokens

    @torch.inference_mode()
    def __call__(self, image: Image.Image, questions: Sequence[str]) -> ImageAnswers:
        """See `ImageAnswerer`; InvalidInput if a question contains a special token."""
        path = self._path or self._llava.unsplit
        output = path([image], self._llava.pixels([image]))
        model = self._llava.model
        embeds = model.model.multi_modal_projector(output.states.to(model.dtype))[0]  # [P, H]
        answers: list[str] = []
        for start in range(0, len(questions), QUESTIONS_AT_ONCE):
            answers += self._answer(embeds, questions[start : start + QUESTIONS_AT_ONCE])
        return ImageAnswers(answers, None if self._path is None else output.sent_bytes[0])

    def _answer(self, image_embeds: Tensor, questions: Sequence[str]) -> list[str]:
        """Answers to a batch of questions about the image with these embeddings `[P, H]`."""
        llava = self._llava
        embedding, tokenizer = llava.model.get_input_embeddings(), llava.tokenizer
        prompts = llava.packer.prompts(questions)
        # Some tokenizers have no padding token; masked positions may hold any token.
        pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        longest = max(map(len, prompts))

        def embed(ids: Sequence[int]) -> Tensor:
            # The dtype is explicit, because an empty list would give floats.
            embeds: Tensor = embedding(torch.tensor(ids, dtype=torch.int64, device=llava.device))
            return embeds

        prefix = torch.cat([embed(llava.packer.prefix_ids), image_embeds])  # [P0 + P, H]
        rows, mask = [], []
        for ids in prompts:
            padding = longest - len(ids)  # on the left, so that all answers start at one position
            rows.append(torch.cat([embed([pad] * padding), prefix, embed(ids)]))
            mask.append([0] * padding + [1] * (len(prefix) + len(ids)))
        # With `inputs_embeds`, the result holds the new tokens only.
        tokens = llava.model.generate(
            inputs_embeds=torch.stack(rows),
            attention_mask=torch.tensor(mask, device=llava.device),
            max_new_tokens=self._max_tokens,
            do_sample=False,
            num_beams=1,
            pad_token_id=pad,
        )
        texts = tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [text.strip() for text in texts]


class QuestionClient(Protocol):
    """The required interface of `edge_client.EdgeClient`, which this package must not import."""

    def compress(self, image: Image.Image, *, quality: str | None = None) -> Any:
        """An encoded image with an attribute `payload`."""

    def ask(self, image: Any, question: str, *, max_tokens: int) -> str:
        """The complete answer."""


class CloudAnswerer:
    """Answers with a cloud service that has the bundle, one question at a time.

    Args:
        client: an edge client of the service.
        point: name of an operating point of the bundle; None: its default.
        max_tokens: maximum tokens of an answer.
    """

    def __init__(self, client: QuestionClient, point: str | None, max_tokens: int) -> None:
        self._client = client
        self._point = point
        self._max_tokens = max_tokens

    def __call__(self, image: Image.Image, questions: Sequence[str]) -> ImageAnswers:
        """See `ImageAnswerer`; raises as `EdgeClient.ask`."""
        # Compressed once for all questions.
        payload = self._client.compress(image, quality=self._point).payload
        answers = [
            str(self._client.ask(payload, question, max_tokens=self._max_tokens)).strip()
            for question in questions
        ]
        return ImageAnswers(answers, len(payload.body))


def padded(image: Image.Image, mean: Sequence[float]) -> Image.Image:
    """The image centred in a square of its longer side, on the processor's mean colour.

    LLaVA-1.5 was trained and evaluated this way, but the processors of its conversions crop.
    """
    side = max(image.size)
    if image.size == (side, side):
        return image
    # Truncated, as in `images.preprocess`.
    red, green, blue = (int(channel * 255) for channel in mean)
    square = Image.new("RGB", (side, side), (red, green, blue))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square
