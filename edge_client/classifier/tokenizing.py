"""Labels to token ids, with the package tokenizers, which is imported when it is first needed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aligned_vq.errors import ConfigError, InvalidInput


def is_installed() -> bool:
    """Whether the package tokenizers is installed."""
    return find_spec("tokenizers") is not None


class LabelTokenizer:
    """A `tokenizer.json` with padding to a fixed number of tokens.

    Args:
        content: of the file.
        source: its path, for messages.
        context_tokens: length L of every row.

    Raises:
        ConfigError: the package tokenizers is missing, or the file is damaged or has no padding.
    """

    def __init__(self, content: bytes, source: str, context_tokens: int) -> None:
        try:
            from tokenizers import Tokenizer
        except ModuleNotFoundError as error:
            raise ConfigError(
                "expected the package tokenizers for labels that are not in the bundle, got none; "
                "install aligned-vq[classify], or use labels of the bundle's sets"
            ) from error
        self._length = context_tokens
        try:
            self._tokenizer: Any = Tokenizer.from_buffer(content)
            fields = json.loads(content)
            self._pad_id = int(fields["padding"]["pad_id"])
            self._special_ids = _special_ids(fields, self._tokenizer)
        except Exception as error:  # the package raises plain Exceptions
            raise ConfigError(
                f"{source}: expected a tokenizer with padding, got: {error!r}; export the "
                "classifier again"
            ) from error
        # What a user types is text: "[EOS]" is five characters, never the end of the sentence.
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def ids(self, labels: Sequence[str], sentences: Sequence[str]) -> NDArray[np.int64]:
        """Token ids `[T, L]` of sentences, padded.

        Args:
            labels: for messages.
            sentences: one for each label.

        Raises:
            InvalidInput: a sentence is longer than L tokens, or has a special token in it.
        """
        rows = np.full((len(sentences), self._length), self._pad_id, np.int64)
        for label, row, sentence in zip(labels, rows, sentences, strict=True):
            # One by one: a batch would start a thread for each core.
            text = self._tokenizer.encode(sentence, add_special_tokens=False)
            encoding = self._tokenizer.encode(sentence)
            # Some vocabularies hold a special token as a plain word as well.
            if self._special_ids.intersection(text.ids):
                raise InvalidInput(
                    f"expected a label of plain text, got {label!r}, in which the tokenizer finds "
                    "a special token; write it differently"
                )
            if len(encoding.ids) > self._length:
                raise InvalidInput(
                    f"expected a label whose sentence has at most {self._length} tokens, got "
                    f"{len(encoding.ids)} for {label!r}; shorten it"
                )
            row[: len(encoding.ids)] = encoding.ids
        return rows


def _special_ids(fields: dict[str, Any], tokenizer: Any) -> frozenset[int]:
    """Ids of special tokens, without the one for unknown words, which any text may contain."""
    special = {own["id"] for own in fields["added_tokens"] if own["special"]}
    model = fields["model"]
    return frozenset(
        special - {model.get("unk_id"), tokenizer.token_to_id(str(model.get("unk_token")))}
    )
