"""The running answers: each has a row of the batch, and a failure of one ends only that one."""

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
"""Tries of `RunningAnswers.check`, as memory may be short for a moment."""


class RunningAnswers:
    """Answers in the order of their rows. Used from the engine's thread only.

    Every method may fail at any point and be called again: completed steps are not repeated, and
    missing ones are done then.

    Args:
        llava: transformers' `LlavaForConditionalGeneration`.
        batch: holds a row for each answer.
        prefill: prepares the rows.
        compute_lock: held during a forward pass.
        observe: called with the number of answers of every forward pass.
    """

    def __init__(
        self,
        llava: Any,
        batch: RunningBatch,
        prefill: Prefill,
        compute_lock: AbstractContextManager[None],
        observe: Callable[[int], None],
    ) -> None:
        end_tokens = llava.generation_config.eos_token_id
        self._end_tokens = set(end_tokens if isinstance(end_tokens, list) else [end_tokens])
        self._device = llava.device
        self._batch = batch
        self._prefill = prefill
        self._compute_lock = compute_lock
        self._observe = observe
        self._rows: list[RunningAnswer] = []
        self._picked: list[tuple[RunningAnswer, Picked]] = []
        self.joining: list[RunningAnswer] = []
        """Answers that join next."""
        self.suspect = False
        """Whether the model has failed since the last `check`."""

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def consistent(self) -> bool:
        """Whether answers and rows of the batch correspond."""
        return len(self._rows) == len(self._batch)

    def join(self) -> None:
        """Compute the first tokens of the joining answers."""
        rows: list[Joining] = []
        for answer in list(self.joining):
            answer.started_ns = time.perf_counter_ns()
            try:
                rows.append(self._prefill.row(answer))
            except Exception as error:  # noqa: BLE001 - ends that answer
                self.joining.remove(answer)
                self.fail(answer, error)
        if rows:
            with self._compute_lock:
                joined = join(self._batch, rows)
            # From here on the batch has rows for them: a later failure must not let them join
            # again.
            answers, self.joining = self.joining, []
            now = time.perf_counter_ns()
            for index, token in joined.tokens.items():
                answers[index].prefilled_ns = now
                self._rows.append(answers[index])
                self._picked.append((answers[index], token))
            for index, failure in joined.failures.items():
                self.fail(answers[index], failure)
        self.deliver()

    def advance(self) -> None:
        """Compute the next token of every answer."""
        try:
            self._observe(len(self._rows))
        except Exception as error:  # noqa: BLE001 - nobody's answer depends on it
            log_failure("observing a pass failed", error)
        rows = self._rows
        with self._compute_lock:
            tokens = step(self._batch, [a.last_token for a in rows], [a.picker for a in rows])
        self._picked = list(zip(rows, tokens, strict=True))
        self.deliver()

    def deliver(self) -> None:
        """Deliver the picked tokens to their answers; remove the answers that end."""
        while self._picked:
            # Popped first, so that a token is not delivered twice if a step below fails.
            answer, token = self._picked.pop()
            if isinstance(token, Exception):
                self._batch.invalidate(self._rows.index(answer))
                self.fail(answer, token)
                last = True
            else:
                try:
                    last = answer.add_token(token, token in self._end_tokens)
                except BaseException as error:  # noqa: BLE001 - a Rust panic is no Exception
                    self.end(answer, error)
                    last = True
            if last:
                self._leave(answer)

    def fail(self, answer: RunningAnswer, error: BaseException) -> None:
        """End an answer because the model failed on it."""
        self.suspect = True
        self.end(answer, error)

    def end(self, answer: RunningAnswer, error: BaseException) -> None:
        """End an answer with an error that is not the model's."""
        log_failure("an answer ended by a failure", error)
        self.notify(answer, error)

    def notify(self, answer: RunningAnswer, error: BaseException) -> None:
        """Send an answer's reader the error that ends it."""
        try:
            answer.emit(error)
        except Exception as failed:  # noqa: BLE001 - its reader is gone
            log_failure("an answer's reader is gone", failed)

    def fail_all(self, error: BaseException) -> None:
        """End all answers, joining ones too, when rows and answers do not correspond any more."""
        failed = [*self._rows, *self.joining]
        self._rows, self.joining, self._picked = [], [], []
        self.suspect = True
        for answer in failed:
            self.fail(answer, error)

    def check(self) -> None:
        """Free the rows' memory and run a minimal pass, while no answer is running.

        Raises:
            Exception: the pass failed in every try, as with a device that is lost.
        """
        # Freeing first gives the pass a chance after an out-of-memory failure.
        for tries_left in reversed(range(CHECKS)):
            try:
                self._batch.clear()
                self._compute()
                break
            except Exception as error:
                log_failure("the check of the model failed", error)
                if not tries_left:
                    raise
        self._batch.clear()
        self.suspect = False

    def _compute(self) -> None:
        """Generate two tokens for a minimal prompt; raises the error if one fails."""
        token = next(iter(self._end_tokens))
        picker = Picker(Sampling(), self._device)
        row = Joining(None, self._prefill.probe_embeddings(token), 3, picker)
        with self._compute_lock:
            joined = join(self._batch, [row])
            outcomes = [*joined.tokens.values(), *joined.failures.values()]
            if not joined.failures:
                outcomes += step(self._batch, [token], [picker])
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome

    def _leave(self, answer: RunningAnswer) -> None:
        """Remove an answer; the last row moves into its row."""
        remaining = list(range(len(self._rows)))
        row = self._rows.index(answer)
        # The same move that `RunningBatch.leave` makes.
        remaining[row] = remaining[-1]
        remaining.pop()
        try:
            self._batch.leave(row)
        except Exception as error:  # noqa: BLE001 - that answer is complete, the others go on
            log_failure("a row could not be removed", error)
        if len(self._batch) > len(remaining):  # `leave` failed halfway: rebuild the rows instead
            self._batch.retain(remaining)
        self._rows = [self._rows[row] for row in remaining]
