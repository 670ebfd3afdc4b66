"""Text embeddings of labels: those in the bundle, and those of its text encoder, cached."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from aligned_vq.classifier.files import (
    TEXT,
    TOKENIZER,
    Embeddings,
    read_embeddings,
    read_part,
)
from aligned_vq.classifier.manifest import ClassifierManifest
from aligned_vq.dual_encoder.prompts import check_labels, prompt
from aligned_vq.errors import InvalidInput
from edge_client.classifier.tokenizing import LabelTokenizer
from edge_client.classifier.tower import OnnxTower

MAX_CACHED_LABELS = 4096
"""Embeddings that are kept: 8 MiB at a width of 512."""
TEXTS_AT_ONCE = 16
"""Texts of one run, which bounds its memory, and how long another caller's texts wait."""
_LISTED_LABELS = 12


class LabelEmbeddings:
    """Embeddings of labels. Thread-safe.

    The text encoder is loaded when it is first needed: a device that only uses the bundle's label
    sets needs neither its memory nor the package tokenizers.

    Args:
        bundle: directory of the bundle.
        manifest: of the bundle.
        threads: compute threads; 0: one per core.

    Raises:
        ConfigError: `labels.safetensors` is missing or damaged.
    """

    def __init__(self, bundle: Path, manifest: ClassifierManifest, threads: int) -> None:
        self._bundle, self._manifest, self._threads = bundle, manifest, threads
        self._sets = read_embeddings(bundle, manifest)
        self._known: dict[str, Embeddings] = {
            label: row
            for own in reversed(manifest.label_sets)  # of equal labels, the first set's row stays
            for label, row in zip(own.labels, self._sets[own.name], strict=True)
        }
        self._cached: OrderedDict[str, Embeddings] = OrderedDict()
        self._lock = threading.Lock()
        self._loading = threading.Lock()
        self._encoder: tuple[LabelTokenizer, OnnxTower] | None = None

    def of(self, labels: Sequence[str] | str | None) -> tuple[tuple[str, ...], Embeddings]:
        """Labels, and their embeddings `[L, D]` float32.

        Args:
            labels: texts, the name of a label set, or None for the bundle's default set.

        Raises:
            InvalidInput: there is no such set; a label is empty, repeated or too long, or there are
                too many; or the bundle has no text encoder, and does not know one of them.
            ConfigError: the text encoder is damaged, or the package tokenizers is missing.
        """
        if labels is None or isinstance(labels, str):
            sets = self._manifest.label_sets
            own = sets[0] if labels is None else self._manifest.label_set(labels)
            return own.labels, self._sets[own.name]
        checked = check_labels(labels)
        rows = {label: row for label in checked if (row := self._lookup(label)) is not None}
        missing = [label for label in checked if label not in rows]
        for start in range(0, len(missing), TEXTS_AT_ONCE):
            part = missing[start : start + TEXTS_AT_ONCE]
            rows |= dict(zip(part, self._encode(part), strict=True))
        return checked, np.stack([rows[label] for label in checked])

    def load(self) -> None:
        """Load the bundle's text encoder now; raises ConfigError as `of`."""
        self._text_encoder()

    def _lookup(self, label: str) -> Embeddings | None:
        if (row := self._known.get(label)) is not None:
            return row
        with self._lock:
            cached: Embeddings | None = self._cached.get(label)
            if cached is not None:
                self._cached.move_to_end(label)
            return cached

    def _encode(self, labels: Sequence[str]) -> Embeddings:
        if not self._manifest.takes_any_label:
            raise InvalidInput(self._unknown(labels[0]))
        tokenizer, tower = self._text_encoder()
        sentences = [prompt(label, self._manifest.template) for label in labels]
        rows = tower.run(tokenizer.ids(labels, sentences))
        with self._lock:
            # Copies, as a row alone would keep the whole batch in memory.
            self._cached |= {label: row.copy() for label, row in zip(labels, rows, strict=True)}
            while len(self._cached) > MAX_CACHED_LABELS:
                self._cached.popitem(last=False)
        return rows

    def _text_encoder(self) -> tuple[LabelTokenizer, OnnxTower]:
        manifest = self._manifest
        with self._loading:
            if self._encoder is None:
                content = read_part(self._bundle, TOKENIZER, manifest.tokenizer_digest or "")
                source = str(self._bundle / TOKENIZER)
                tokenizer = LabelTokenizer(content, source, manifest.context_tokens)
                graph = read_part(self._bundle, TEXT, manifest.text_digest or "")
                tower = OnnxTower(
                    graph, str(self._bundle / TEXT), "ids", manifest.embedding_dim, self._threads
                )
                self._encoder = tokenizer, tower
            return self._encoder

    def _unknown(self, label: str) -> str:
        known = list(self._known)
        more = f" and {len(known) - _LISTED_LABELS} more" if len(known) > _LISTED_LABELS else ""
        return (
            f"expected labels that the classifier {self._manifest.name!r} knows, as its bundle has "
            f"no text encoder ({TEXT}), got {label!r}; choose from "
            f"{', '.join(known[:_LISTED_LABELS])}{more}, or a bundle with {TEXT}"
        )
