"""Several equivalent services: which are available, and health checks of those that are not.

Free of torch, as the transport is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence

from aligned_vq.errors import (
    AlignedVQError,
    CloudUnreachable,
    ConfigError,
    DeadlineExceeded,
    ManifestMismatch,
    Unauthenticated,
)
from aligned_vq.telemetry.spans import Metadata
from edge_client.config import EdgeConfig
from edge_client.connection.circuit_breaker import CircuitBreaker
from edge_client.connection.transport import Transport
from protos import convert
from protos.alignedvq.v1 import inference_pb2 as pb

_HEALTH_CHECK_SECONDS = 2.0
_MONITOR_INTERVAL_SECONDS = 0.25


def split_targets(target: str | Sequence[str]) -> list[str]:
    """Addresses as a list; a string may hold several, separated by commas.

    Raises:
        ConfigError: there is no address, or a duplicate.
    """
    parts = target.split(",") if isinstance(target, str) else target
    addresses = [part.strip() for part in parts if part.strip()]
    if not addresses or len(set(addresses)) < len(addresses):
        raise ConfigError(
            f"expected one or more different addresses, got {target!r}; write host:port, or "
            "host:port,host:port for several"
        )
    return addresses


class Target:
    """One service: its transport, its circuit breaker and its calls in flight."""

    def __init__(self, transport: Transport, config: EdgeConfig) -> None:
        self.transport = transport
        self.name = transport.target
        self.breaker = CircuitBreaker(config.failures, config.pause_seconds)
        self.calls: set[TargetCall] = set()
        """Calls in flight."""
        self.last_used = 0
        """Sequence number of its latest call over all targets; the smallest is next in rotation."""
        self.monitor: threading.Thread | None = None

    @property
    def in_flight(self) -> int:
        """Number of calls in flight."""
        return len(self.calls)

    @property
    def is_available(self) -> bool:
        """Whether it may receive a request; a half-open circuit admits one at a time."""
        state = self.breaker.state
        return state == "closed" or (state == "half_open" and not self.in_flight)

    def check_health(self) -> str:
        """The problem that a health check reports; empty if the target is healthy."""
        try:
            self.transport.check_health(_HEALTH_CHECK_SECONDS)
        except CloudUnreachable as error:
            return str(error)
        return ""


class Targets:
    """The services that a question may go to.

    A monitor thread per target runs health checks: while the circuit is open, to half-open it, and
    while the target's calls are silent, to move these calls to another target if it is unhealthy.
    A monitor starts when it is first needed.

    Args:
        transports: one for each target.
        config: thresholds of the circuit breakers and of silence.
    """

    def __init__(self, transports: Sequence[Transport], config: EdgeConfig) -> None:
        self.all = [Target(transport, config) for transport in transports]
        self._silence_seconds = config.silence_seconds
        self._calls_started = 0
        # Guards breakers and calls of all targets; notified when a monitor may have work.
        self._changed = threading.Condition()
        self.closed = False

    def available(self) -> list[Target]:
        """Available targets, least loaded first; ties in rotation."""
        with self._changed:
            targets = [target for target in self.all if target.is_available]
            # Python's sort is stable, so equal targets keep the order of the configuration.
            return sorted(targets, key=lambda target: (target.in_flight, target.last_used))

    def record_failure(self, target: Target, generation: int, error: AlignedVQError) -> None:
        """A request that started at the breaker's `generation` failed at the target."""
        with self._changed:
            # Without an alternative, opening the circuit of a target that rejects us or is slow
            # would only replace its precise error by a vaguer one.
            is_only_target = len(self.all) == 1
            if is_only_target and (is_rejection(error) or isinstance(error, DeadlineExceeded)):
                return
            if is_rejection(error):
                target.breaker.record_rejection(str(error))
            elif isinstance(error, CloudUnreachable):
                target.breaker.record_failure(generation, str(error))
            self._wake_monitor(target)

    def add_call(self, call: TargetCall) -> None:
        """Count a call as in flight."""
        with self._changed:
            self._calls_started += 1
            call.target.last_used = self._calls_started
            call.target.calls.add(call)
            self._wake_monitor(call.target)

    def remove_call(self, call: TargetCall) -> None:
        """A call ended; idempotent."""
        with self._changed:
            call.target.calls.discard(call)

    def record_success(self, call: TargetCall) -> None:
        """The first response of a call arrived."""
        with self._changed:
            call.target.breaker.record_success()

    def close(self) -> None:
        """End the monitors and close all connections."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()
        for target in self.all:
            target.transport.close()
        for target in self.all:
            if target.monitor is not None:
                # Closing the channel has ended its health check.
                target.monitor.join(2 * _HEALTH_CHECK_SECONDS)

    def _wake_monitor(self, target: Target) -> None:
        if target.monitor is None and not self.closed and self._needs_monitoring(target):
            target.monitor = threading.Thread(
                target=self._monitor, args=(target,), name="targets", daemon=True
            )
            target.monitor.start()
        self._changed.notify_all()

    def _needs_monitoring(self, target: Target) -> bool:
        """Whether its circuit is open, or it has calls that could move to another target."""
        return (len(self.all) > 1 and bool(target.calls)) or target.breaker.state == "open"

    def _monitor(self, target: Target) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self.closed or self._needs_monitoring(target))
                if self.closed:
                    return
                is_check_due = target.breaker.is_check_due() or self._silent_calls(target)
            if is_check_due:  # without the lock: a health check takes up to two seconds
                self._apply_health(target, target.check_health())
            with self._changed:
                self._changed.wait_for(lambda: self.closed, _MONITOR_INTERVAL_SECONDS)

    def _apply_health(self, target: Target, problem: str) -> None:
        with self._changed:
            # Both may have changed during the check: an answer closes the circuit meanwhile.
            silent = self._silent_calls(target)
            if silent or target.breaker.state == "open":
                target.breaker.record_health(problem)
        # Without the lock: cancelling may wait for a call that is just starting.
        for call in silent:
            call.apply_health(problem)

    def _silent_calls(self, target: Target) -> list[TargetCall]:
        """Its calls without a response for long, if another target is available for them."""
        if not any(other.is_available for other in self.all if other is not target):
            return []
        threshold = time.monotonic() - self._silence_seconds
        return [
            call
            for call in target.calls
            if not call.has_begun and call.last_response_at < threshold
        ]


class TargetCall:
    """An `Exchange` that counts as in flight at its target; see `Transport.open`."""

    def __init__(
        self, targets: Targets, target: Target, timeout_seconds: float, metadata: Metadata
    ) -> None:
        self.target = target
        self.last_response_at = time.monotonic()
        self.has_begun = False
        """Whether a piece of the answer arrived; from then on no other target can take over."""
        self._targets = targets
        self._health_problem = ""
        targets.add_call(self)  # before opening, so that concurrent requests go elsewhere
        try:
            self._exchange = target.transport.open(timeout_seconds, metadata)
        except BaseException:
            targets.remove_call(self)
            raise

    @property
    def message_bytes(self) -> int:
        """See `Exchange.message_bytes`."""
        return self._exchange.message_bytes

    def send(self, request: pb.AskRequest) -> None:
        """See `Exchange.send`."""
        self._exchange.send(request)

    def finish(self) -> None:
        """See `Exchange.finish`."""
        self._exchange.finish()

    def __iter__(self) -> Iterator[pb.AskResponse]:
        """See `Exchange.__iter__`."""
        try:
            for response in self._exchange:
                self.last_response_at = time.monotonic()
                if not self.has_begun and not convert.is_payload_needed(response):
                    self.has_begun = True
                    self._targets.record_success(self)
                yield response
        except CloudUnreachable as error:
            if self._health_problem:
                raise CloudUnreachable(self._health_problem) from error
            raise
        finally:
            self._targets.remove_call(self)

    def cancel(self) -> None:
        """See `Exchange.cancel`."""
        self._exchange.cancel()
        self._targets.remove_call(self)

    def apply_health(self, problem: str) -> None:
        """Cancel a call that has not begun, because its target failed a health check."""
        if not problem:
            self.last_response_at = time.monotonic()
        elif not self.has_begun:
            self._health_problem = problem
            self.cancel()


def is_rejection(error: AlignedVQError) -> bool:
    """Whether the target itself does not fit this client, as opposed to a transient failure."""
    is_other_service = isinstance(error, CloudUnreachable) and error.another_service
    return is_other_service or isinstance(error, ManifestMismatch | Unauthenticated)
