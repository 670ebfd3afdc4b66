"""The pure Python range coder encodes and decodes exactly as constriction does."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aligned_vq.bitstream import coders
from aligned_vq.bitstream.coders import PURE, Coder
from aligned_vq.bitstream.range_coder import PRECISION_BITS, InvalidWords
from benchmarks.speed.range_coder import Step, encoded, first_difference, random_steps
from tests import commands

HERE = Path(__file__).parent
WITHOUT = """
import sys
sys.modules["constriction"] = None  # imports of it fail, as where it is not installed
import pytest
from aligned_vq.bitstream import coders
assert coders.CODER is coders.PURE
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", *sys.argv[1:]]))
"""


def constriction() -> Coder:
    found = coders.compiled()
    assert found is not None, "expected constriction, as `make setup` installs it"
    return found


def test_constriction_is_used_where_it_is_installed() -> None:
    assert coders.CODER.name == "constriction"


@pytest.mark.parametrize("seed", range(300))
def test_random_messages_are_encoded_to_the_same_words(seed: int) -> None:
    assert first_difference(random_steps(np.random.default_rng(seed)), PURE, constriction()) is None


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_extreme_symbols_and_weights_are_encoded_to_the_same_words(data: st.DataObject) -> None:
    weights = st.lists(st.sampled_from([1, 2, 255, 1 << 24]), min_size=2, max_size=40)
    steps = []
    for _ in range(data.draw(st.integers(0, 6))):
        drawn = data.draw(weights)
        symbols = st.lists(st.sampled_from([0, 1, len(drawn) - 1]), max_size=60)
        steps.append(
            Step("categorical", np.array(drawn, np.float64), np.array(data.draw(symbols), np.int32))
        )
    assert first_difference(steps, PURE, constriction()) is None


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 2**32 - 1), max_size=8), st.integers(2, 70))
def test_arbitrary_words_are_decoded_to_the_same_symbols(words: list[int], size: int) -> None:
    found = []
    for coder in (PURE, constriction()):
        decoder = coder.decoder(np.array(words, np.uint32))
        model = coder.categorical(np.arange(1, size + 1, dtype=np.float64))
        symbols: list[int] = []
        try:
            for _ in range(60):
                symbols.append(decoder.decode(model))
        except coder.invalid_words:
            symbols.append(-1)
        found.append(symbols)
    assert found[0] == found[1]


def test_a_carry_propagates_through_earlier_words() -> None:
    """Symbols that keep a word boundary inside the interval until it falls on either side."""
    half = np.ones(2)
    carried = 0
    for seed in range(200):
        bits = np.random.default_rng(seed).integers(0, 2, 7)
        # 0.0111...1 and then random bits: the boundary stays inside the interval for long.
        message = np.array([0, *[1] * 90, *bits], np.int32)
        words = encoded([Step("categorical", half, message)], PURE)
        carried += words.tolist().count(0) + words.tolist().count(2**32 - 1)
        assert first_difference([Step("categorical", half, message)], PURE, constriction()) is None
    assert carried


def test_an_empty_message_has_no_words() -> None:
    assert PURE.encoder().get_compressed().tolist() == []


def test_reading_the_words_does_not_change_the_encoder() -> None:
    model, encoder = PURE.uniform(1000), PURE.encoder()
    words = []
    for symbol in range(0, 1000, 7):
        encoder.encode(symbol, model)
        words.append(encoder.get_compressed())
    again = PURE.encoder()
    again.encode(np.arange(0, 1000, 7), model)
    assert again.get_compressed().tolist() == words[-1].tolist()
    assert len(words[0]) < len(words[-1])


def test_words_that_no_encoder_produces_are_refused() -> None:
    # The last of 2**64 points is in no symbol's interval: those end below, by rounding.
    with pytest.raises(InvalidWords, match="no encoder"):
        PURE.decoder(np.full(2, 2**32 - 1, np.uint32)).decode(PURE.uniform(3))


@pytest.mark.parametrize("size", [2, 3, 64, 4096, 65_536])
def test_every_symbol_has_an_interval(size: int) -> None:
    weights = np.ones(size)
    weights[0] = 1 << 24
    for model in (PURE.categorical(weights), PURE.uniform(size)):
        assert len(model.starts) == size + 1
        assert (model.starts[0], model.starts[-1]) == (0, 1 << PRECISION_BITS)
        assert min(np.diff(model.starts)) >= 1


@pytest.mark.parametrize(
    "names", [("golden", "pack"), pytest.param(("corruption", "context"), marks=pytest.mark.long)]
)
def test_the_bitstream_tests_pass_without_constriction(names: tuple[str, ...]) -> None:
    files = [str(HERE / f"test_{name}.py") for name in names]
    done = commands.run([sys.executable, "-c", WITHOUT, *files], timeout=110)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
