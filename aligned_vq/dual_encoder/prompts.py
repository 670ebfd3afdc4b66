"""Labels and the sentences that a dual encoder reads for them; no tensors."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path
from string import Formatter

from aligned_vq.errors import ConfigError, InvalidInput

DEFAULT_TEMPLATE = "a photo of {article} {label}"
MAX_LABELS = 1_000
"""Of one call: each costs a run of the text tower."""
MAX_LABEL_CHARS = 200
_UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")
"""Categories of Unicode: control characters, halves of pairs, ends of lines and paragraphs."""


def check_labels(labels: Sequence[str]) -> tuple[str, ...]:
    """The labels, verbatim but for surrounding white space.

    Raises:
        InvalidInput: there are none, too many, an empty or an overlong one, one with a control
            character, or two that differ in nothing but case, white space and what cannot be seen:
            they would share the probability of one.
    """
    if not 1 <= len(labels) <= MAX_LABELS:
        raise InvalidInput(f"expected 1 to {MAX_LABELS} labels, got {len(labels)}: send some")
    first: dict[str, str] = {}
    for label in labels:
        if isinstance(label, str) and len(label) > MAX_LABEL_CHARS:
            raise InvalidInput(
                f"expected labels of at most {MAX_LABEL_CHARS} characters, got {len(label)} in "
                f"{label[:40]!r}...: shorten it"
            )
        same = _seen(label) if isinstance(label, str) else ""
        if not same:
            raise InvalidInput(f"expected labels with text, got {label!r}: remove it")
        if any(unicodedata.category(one) in _UNPRINTABLE for one in label.strip()):
            raise InvalidInput(
                f"expected labels of printable characters on one line, got {label[:40]!r}: "
                "correct it"
            )
        if same in first:
            raise InvalidInput(
                f"expected distinct labels, got {first[same]!r} and {label!r}: remove one, because "
                "they would share one probability"
            )
        first[same] = label
    return tuple(label.strip() for label in labels)


def _seen(label: str) -> str:
    """What a reader can tell apart of a label, without case."""
    composed = unicodedata.normalize("NFC", label.casefold())
    # Cf: characters without width.
    visible = "".join(one for one in composed if unicodedata.category(one) != "Cf")
    return " ".join(visible.split())


def check_template(template: str) -> str:
    """A template, unchanged.

    Raises:
        ConfigError: it has no `{label}`, or other fields than that and `{article}`.
    """
    wrong = ConfigError(
        f"expected a template with {{label}} and perhaps {{article}}, got {template!r}: "
        "remove other braces"
    )
    try:
        fields = list(Formatter().parse(template))
    except ValueError as error:
        raise wrong from error
    names = [name for _, name, _, _ in fields if name is not None]
    # Formats and attributes, as in {label[0]}, would change the label.
    if set(names) - {"label", "article"} or any(spec or how for _, _, spec, how in fields):
        raise wrong
    if "label" not in names:
        raise ConfigError(f"expected a template with {{label}}, got {template!r}: add it")
    return template


def prompt(label: str, template: str = DEFAULT_TEMPLATE) -> str:
    """The sentence for a label: its text verbatim, behind `an` if it starts with a vowel."""
    article = "an" if label[:1].lower() in tuple("aeiou") else "a"
    return template.format(label=label, article=article)


def read_lines(path: str | Path) -> list[str]:
    """The lines of a text file of labels or templates, without empty lines and `#` comments.

    Raises:
        ConfigError: the file cannot be read, or is not UTF-8.
    """
    try:
        lines = Path(path).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"expected a text file with one entry per line at {path}, got: {error}"
        ) from error
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def read_labels(path: str | Path) -> tuple[str, ...]:
    """The labels in a file, one per line; ConfigError if `check_labels` refuses them."""
    try:
        return check_labels(read_lines(path))
    except InvalidInput as error:
        raise ConfigError(f"{path}: {error}") from error
