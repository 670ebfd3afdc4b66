"""The way of one question through several targets: where it goes, and where it goes on to.

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
from edge_client.connection.targets import Target, TargetCall, Targets, is_refusal
from edge_client.connection.transport import CANCELLED_HERE, NEVER
from protos.messages import ServiceInfo

_FIRST_SLICE_SECONDS = 0.5
_TRIAL_POLL_SECONDS = 0.05
_MAX_CHARS = 900
_ADVICE = "check that one runs, its address, and the link"

_Error = TypeVar("_Error", bound=AlignedVQError)


class Route:
    """`connect` chooses a target, another one for each retry; the rest is done with the chosen one.

    Args:
        targets: all there are.
        home: address of the target to ask first if it takes questions.
    """

    def __init__(self, targets: Targets, home: str = "") -> None:
        self._targets = targets
        self._home = home
        self._asked: Counter[Target] = Counter()
        self._refused: set[Target] = set()
        self._chosen = targets.all[0]
        self._mark = 0

    @property
    def target(self) -> str:
        """Address of the service that was chosen last."""
        return self._chosen.name

    def connect(self, timeout_seconds: float, cancelled: threading.Event = NEVER) -> None:
        """Choose a target that can be reached.

        Raises:
            CloudUnreachable: none can within that time, or, at once, all are left alone and none
                was asked before; or it was cancelled, or the client closed.
        """
        deadline = time.monotonic() + timeout_seconds
        slice_seconds = _FIRST_SLICE_SECONDS if len(self._targets.all) > 1 else timeout_seconds
        failed: dict[Target, tuple[int, CloudUnreachable]] = {}
        while True:
            for target in (candidates := self._candidates()):
                left = max(0.0, deadline - time.monotonic())
                mark = target.breaker.mark
                try:
                    # A channel goes on connecting between its slices.
                    target.transport.connect(min(slice_seconds, left), cancelled)
                except CloudUnreachable as error:
                    if cancelled.is_set() or self._targets.closed:
                        raise  # that says nothing of the target
                    failed[target] = mark, error
                    continue
                failed.pop(target, None)
                self._chosen, self._mark = target, mark
                self._note(failed)
                return
            if time.monotonic() >= deadline or not (candidates or self._hopeful()):
                break
            if not candidates:
                if cancelled.wait(_TRIAL_POLL_SECONDS):
                    raise CloudUnreachable(CANCELLED_HERE)
            elif len(self._targets.all) == 1:
                break  # it had all the time there is
            else:
                slice_seconds *= 2
        self._note(failed)
        if len(self._targets.all) == 1 and failed and not self._asked:
            raise failed[self._chosen][1]
        how = f"within {timeout_seconds:g} s" if failed else "as all are left alone"
        raise self._told(
            CloudUnreachable(f"expected a service that takes questions, got none {how}; {_ADVICE}")
        )

    def open(self, timeout_seconds: float, metadata: Metadata = ()) -> Exchange:
        """Start the question at the chosen target; see `Transport.open`."""
        self._asked[self._chosen] += 1
        return TargetCall(self._targets, self._chosen, timeout_seconds, metadata)

    def service_info(self, timeout_seconds: float, digest: bytes = b"") -> ServiceInfo:
        """Of the chosen target; see `Transport.service_info`."""
        self._asked[self._chosen] += 1
        return self._chosen.transport.service_info(timeout_seconds, digest)

    def failed(self, error: AlignedVQError) -> bool:
        """The question failed at the chosen target; is there one that was not asked yet?"""
        self._targets.failed(self._chosen, self._mark, error)
        if is_refusal(error):
            self._refused.add(self._chosen)
        return any(not self._asked[target] for target in self._candidates())

    def explain(self, error: _Error, begun: bool = False) -> _Error:
        """The error, which also says whether the answer had `begun`, and what was tried where that
        is more than one target once."""
        if begun:
            error = _reworded(error, f"the answer broke off: {error}; ask again")
        simple = len(self._targets.all) == 1 and self._asked.total() <= 1
        return error if simple else self._told(error)

    def _told(self, error: _Error) -> _Error:
        room = max(60, 450 // len(self._targets.all))
        tried = "; ".join(self._tried(target, room) for target in self._targets.all)
        return _reworded(error, _cut(f"{_cut(str(error), 400)}; tried: {tried}", _MAX_CHARS))

    def _tried(self, target: Target, room: int) -> str:
        times = {0: "not asked", 1: "asked once"}
        asked = times.get(self._asked[target], f"asked {self._asked[target]} times")
        state = {"closed": "", "open": ", left alone", "trial": ", on trial"}
        reason = f" ({_cut(target.breaker.reason, room)})" if target.breaker.reason else ""
        return f"{target.name} {asked}{state[target.breaker.state]}{reason}"

    def _note(self, failed: dict[Target, tuple[int, CloudUnreachable]]) -> None:
        for target, (mark, error) in failed.items():
            self._targets.failed(target, mark, error)

    def _hopeful(self) -> bool:
        """Does another question just find out whether a target is well again? Or is this one on its
        way already, and worth waiting until one says that it is?"""
        return any(
            target.breaker.state == "trial" or bool(self._asked)
            for target in self._targets.all
            if target not in self._refused
        )

    def _candidates(self) -> list[Target]:
        """Where the question may go, the best first."""
        able = [target for target in self._targets.able() if target not in self._refused]
        return sorted(able, key=lambda each: (self._asked[each], each.name != self._home))


def _reworded(error: _Error, words: str) -> _Error:
    told = copy.copy(error)
    told.args = (words,)
    return told


def _cut(words: str, chars: int) -> str:
    return words if len(words) <= chars else f"{words[: chars - 3]}..."
