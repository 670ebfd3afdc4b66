"""Text of an answer, piece by piece, up to a stop text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from cloud_server.engine.text import StopTexts, TextStream

WORDS = st.text("ab.", max_size=12)


def told(stops: Sequence[str], pieces: Sequence[str]) -> tuple[str, bool]:
    """What an answer in these pieces tells, and whether it was stopped."""
    filtered = StopTexts(stops)
    text = ""
    for number, piece in enumerate(pieces, 1):
        new, stopped = filtered.push(piece, last=number == len(pieces))
        text += new
        if stopped:
            return text, True
    return text, False


@given(
    st.lists(WORDS, min_size=1, max_size=6),
    st.lists(st.text("ab.", min_size=1, max_size=4), max_size=3),
)
def test_an_answer_ends_before_its_first_stop_text_however_it_is_cut(
    pieces: list[str], stops: list[str]
) -> None:
    text, stopped = told(stops, pieces)
    assert stopped == any(stop in "".join(pieces) for stop in stops)
    assert "".join(pieces).startswith(text)
    assert not any(stop in text for stop in stops)
    if not stopped:
        assert text == "".join(pieces)


@given(WORDS)
def test_only_what_may_become_a_stop_text_is_held_back(text: str) -> None:
    assert StopTexts(()).push(text) == (text, False)
    assert StopTexts(("x",)).push(text) == (text, False)
    assert StopTexts(("xb",)).push(text + "x") == (text, False)


def test_pieces_join_to_the_decoded_whole(llava_directory: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(llava_directory)
    ids = tokenizer("There are two red stars above a blue circle.")["input_ids"]
    stream = TextStream(tokenizer)
    pieces = [stream.push(token, last=token is ids[-1]) for token in ids]
    assert "".join(pieces) == tokenizer.decode(ids, skip_special_tokens=True).lstrip()
