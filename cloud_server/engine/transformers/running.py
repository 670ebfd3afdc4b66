"""The answers that run: each a row of the batch, and what goes wrong with one ends that one."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from aligned_vq.answers import Sampling
from cloud_server.engine.transformers.answer import RunningAnswer
from cloud_server.engine.transformers.batch import RunningBatch
from cloud_server.engine.transformers.failures import log_failure
from cloud_server.engine.transformers.passes import Joining, Picked, join, step
from cloud_server.engine.transformers.picking import Picker
from cloud_server.engine.transformers.prefill import Prefill

CHECKS = 3
"""Tries of `RunningAnswers.check`: memory may be short for a moment."""


class RunningAnswers:
    """Answers in the order of their rows. Used from the engine's thread only.

    Every method may fail anywhere, by a bug, and be called again: what was done is not done twice,
    and what was not is done then.

    Args:
        llava: transformers' `LlavaForConditionalGeneration`.
        batch: holds a row for each.
        prefill: makes the rows.
        turns: held during a forward pass.
        observe: told how many answers every forward pass advances.
    """

    def __init__(
        self,
        llava: Any,
        batch: RunningBatch,
        prefill: Prefill,
        turns: AbstractContextManager[None],
        observe: Callable[[int], None],
    ) -> None:
        ends = llava.generation_config.eos_token_id
        self._ends = set(ends if isinstance(ends, list) else [ends])
        self._device = llava.device
        self._batch = batch
        self._prefill = prefill
        self._turns = turns
        self._observe = observe
        self._rows: list[RunningAnswer] = []
        self._picked: list[tuple[RunningAnswer, Picked]] = []
        self.joining: list[RunningAnswer] = []
        """Those that join next."""
        self.suspect = False
        """Has the model failed since `check`?"""

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def in_step(self) -> bool:
        """Has each answer a row, and each row an answer?"""
        return len(self._rows) == len(self._batch)

    def join(self) -> None:
        """Compute the first tokens of those that join."""
        rows: list[Joining] = []
        for answer in list(self.joining):
            answer.started_ns = time.perf_counter_ns()
            try:
                rows.append(self._prefill.row(answer))
            except Exception as error:  # noqa: BLE001 - ends that answer
                self.joining.remove(answer)
                self.fail(answer, error)
        if rows:
            with self._turns:
                joined = join(self._batch, rows)
            answers, self.joining = self.joining, []
            now = time.perf_counter_ns()
            for place, token in joined.tokens.items():
                answers[place].prefilled_ns = now
                self._rows.append(answers[place])
                self._picked.append((answers[place], token))
            for place, failure in joined.failures.items():
                self.fail(answers[place], failure)
        self.take()

    def advance(self) -> None:
        """Compute one more token for every answer."""
        try:
            self._observe(len(self._rows))
        except Exception as error:  # noqa: BLE001 - nobody's answer depends on it
            log_failure("a pass was not counted", error)
        rows = self._rows
        with self._turns:
            tokens = step(self._batch, [a.token for a in rows], [a.picker for a in rows])
        self._picked = list(zip(rows, tokens, strict=True))
        self.take()

    def take(self) -> None:
        """Give the tokens that were picked to their answers; those that end leave."""
        while self._picked:
            answer, token = self._picked.pop()
            if isinstance(token, Exception):
                self._batch.spoil(self._rows.index(answer))
                self.fail(answer, token)
                last = True
            else:
                try:
                    last = answer.take(token, token in self._ends)
                except BaseException as error:  # noqa: BLE001 - a tokenizer's panic is no Exception
                    self.end(answer, error)
                    last = True
            if last:
                self._leave(answer)

    def fail(self, answer: RunningAnswer, error: BaseException) -> None:
        """End an answer over which the model failed."""
        self.suspect = True
        self.end(answer, error)

    def end(self, answer: RunningAnswer, error: BaseException) -> None:
        """End an answer with an error that says nothing about the model."""
        log_failure("an answer ended by a failure", error)
        self.tell(answer, error)

    def tell(self, answer: RunningAnswer, error: BaseException) -> None:
        """Tell whoever waits for an answer why it ends."""
        try:
            answer.emit(error)
        except Exception as failed:  # noqa: BLE001 - its reader is gone
            log_failure("an answer's reader is gone", failed)

    def fail_all(self, error: BaseException) -> None:
        """End all answers, those that join, too: rows and answers do not match any more."""
        failed = [*self._rows, *self.joining]
        self._rows, self.joining, self._picked = [], [], []
        self.suspect = True
        for answer in failed:
            self.fail(answer, error)

    def check(self) -> None:
        """With no answer running: give back the memory of rows, and compute something tiny.

        Raises:
            Exception: what that fails with every time, as a device does that is gone.
        """
        for tries_left in reversed(range(CHECKS)):
            try:
                self._batch.clear()
                self._compute()
                break
            except Exception as error:
                log_failure("the model failed without an answer", error)
                if not tries_left:
                    raise
        self._batch.clear()
        self.suspect = False

    def _compute(self) -> None:
        """Two tokens of nothing in particular, or what went wrong with them."""
        token = next(iter(self._ends))
        picker = Picker(Sampling(), self._device)
        row = Joining(None, self._prefill.tiny(token), 3, picker)
        with self._turns:
            joined = join(self._batch, [row])
            outcomes = [*joined.tokens.values(), *joined.failures.values()]
            if not joined.failures:
                outcomes += step(self._batch, [token], [picker])
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome

    def _leave(self, answer: RunningAnswer) -> None:
        """Remove an answer; the last row takes the place of its row."""
        left = list(range(len(self._rows)))
        row = self._rows.index(answer)
        left[row] = left[-1]
        left.pop()
        try:
            self._batch.leave(row)
        except Exception as error:  # noqa: BLE001 - that answer is complete, the others go on
            log_failure("a row could not be given back", error)
        if len(self._batch) > len(left):
            self._batch.keep(left)
        self._rows = [self._rows[row] for row in left]
