"""The path of one question through several targets: which comes first, and which next on failure.

Free of torch, as the transport is.
"""

from __future__ import annotations

import copy
import threading
import time
from collections import Counter
from typing import TypeVar

from aligned_vq.errors import AlignedVQError, CloudUnreachable
from aligned_vq.telemetry.spans import Metadata
from edge_client.connection.exchange import Exchange
from edge_client.connection.targets import Target, TargetCall, Targets, is_rejection
from edge_client.connection.transport import CANCELLED_BY_CLIENT, NEVER_CANCELLED
from protos.messages import ServiceInfo

_FIRST_SLICE_SECONDS = 0.5
_HALF_OPEN_POLL_SECONDS = 0.05
_MAX_CHARS = 900
_ADVICE = "check that one runs, its address, and the link"

_Error = TypeVar("_Error", bound=AlignedVQError)


class Route:
    """`connect` selects a target, a different one for each retry; the other methods use it.

    Args:
        targets: all targets.
        preferred: address of the target to try first if it is available.
    """

    def __init__(self, targets: Targets, preferred: str = "") -> None:
        self._targets = targets
        self._preferred = preferred
        self._attempts: Counter[Target] = Counter()
        self._rejected_by: set[Target] = set()
        self._selected = targets.all[0]
        self._generation = 0

    @property
    def target(self) -> str:
        """Address of the target selected last."""
        return self._selected.name

    def connect(self, timeout_seconds: float, cancelled: threading.Event = NEVER_CANCELLED) -> None:
        """Select a target that can be reached.

        Raises:
            CloudUnreachable: none within that time; or, at once, every circuit is open before the
                first attempt; or `cancelled` was set, or the client closed.
        """
        deadline = time.monotonic() + timeout_seconds
        slice_seconds = _FIRST_SLICE_SECONDS if len(self._targets.all) > 1 else timeout_seconds
        # Recorded once at the end, not once per slice, at the generation before the attempt.
        failed: dict[Target, tuple[int, CloudUnreachable]] = {}
        while True:
            for target in (candidates := self._candidates()):
                remaining_seconds = max(0.0, deadline - time.monotonic())
                generation = target.breaker.generation
                try:
                    # A short slice for each target: its channel goes on connecting meanwhile.
                    target.transport.connect(min(slice_seconds, remaining_seconds), cancelled)
                except CloudUnreachable as error:
                    if cancelled.is_set() or self._targets.closed:
                        raise  # says nothing about the target
                    failed[target] = generation, error
                    continue
                failed.pop(target, None)
                self._selected, self._generation = target, generation
                self._record_failures(failed)
                return
            if time.monotonic() >= deadline or not (candidates or self._may_recover()):
                break
            if not candidates:
                if cancelled.wait(_HALF_OPEN_POLL_SECONDS):
                    raise CloudUnreachable(CANCELLED_BY_CLIENT)
            elif len(self._targets.all) == 1:
                break  # its one slice was the whole timeout
            else:
                slice_seconds *= 2
        self._record_failures(failed)
        if len(self._targets.all) == 1 and failed and not self._attempts:
            raise failed[self._selected][1]
        cause = f"within {timeout_seconds:g} s" if failed else "as every circuit breaker is open"
        raise self._with_attempts(
            CloudUnreachable(f"expected an available service, got none {cause}; {_ADVICE}")
        )

    def open(self, timeout_seconds: float, metadata: Metadata = ()) -> Exchange:
        """Start the question at the selected target; see `Transport.open`."""
        self._attempts[self._selected] += 1
        return TargetCall(self._targets, self._selected, timeout_seconds, metadata)

    def service_info(self, timeout_seconds: float, digest: bytes = b"") -> ServiceInfo:
        """Manifest and limits of the selected target; see `Transport.service_info`."""
        self._attempts[self._selected] += 1
        return self._selected.transport.service_info(timeout_seconds, digest)

    def record_failure(self, error: AlignedVQError) -> bool:
        """Record a failure at the selected target; True if there is a target not tried yet."""
        self._targets.record_failure(self._selected, self._generation, error)
        if is_rejection(error):
            self._rejected_by.add(self._selected)
        return any(not self._attempts[target] for target in self._candidates())

    def explain(self, error: _Error, begun: bool = False) -> _Error:
        """The error, extended by what was tried if that is more than one attempt at one target.

        Args:
            error: the final failure.
            begun: whether it interrupted an answer that had begun.
        """
        if begun:
            error = _with_message(error, f"the answer broke off: {error}; ask again")
        is_single_attempt = len(self._targets.all) == 1 and self._attempts.total() <= 1
        return error if is_single_attempt else self._with_attempts(error)

    def _with_attempts(self, error: _Error) -> _Error:
        max_reason_chars = max(60, 450 // len(self._targets.all))
        tried = "; ".join(self._history(target, max_reason_chars) for target in self._targets.all)
        message = f"{_truncated(str(error), 400)}; tried: {tried}"
        return _with_message(error, _truncated(message, _MAX_CHARS))

    def _history(self, target: Target, max_reason_chars: int) -> str:
        count = self._attempts[target]
        attempts = {0: "not tried", 1: "tried once"}.get(count, f"tried {count} times")
        state = {"closed": "", "open": ", circuit open", "half_open": ", circuit half open"}
        reason = target.breaker.reason
        suffix = f" ({_truncated(reason, max_reason_chars)})" if reason else ""
        return f"{target.name} {attempts}{state[target.breaker.state]}{suffix}"

    def _record_failures(self, failed: dict[Target, tuple[int, CloudUnreachable]]) -> None:
        for target, (generation, error) in failed.items():
            self._targets.record_failure(target, generation, error)

    def _may_recover(self) -> bool:
        """Whether waiting can help although no target is available.

        It can while another question tests a half-open target, and for a question that was already
        tried somewhere, which is worth waiting for the next health check.
        """
        return any(
            target.breaker.state == "half_open" or bool(self._attempts)
            for target in self._targets.all
            if target not in self._rejected_by
        )

    def _candidates(self) -> list[Target]:
        """Available targets: fewest attempts of this question first, then the preferred one."""
        available = [
            target for target in self._targets.available() if target not in self._rejected_by
        ]
        return sorted(
            available, key=lambda target: (self._attempts[target], target.name != self._preferred)
        )


def _with_message(error: _Error, message: str) -> _Error:
    # A copy keeps the type and its fields, such as `retry_after_seconds`.
    copied = copy.copy(error)
    copied.args = (message,)
    return copied


def _truncated(text: str, max_chars: int) -> str:
    return text if len(text) <= max_chars else f"{text[: max_chars - 3]}..."
