"""Admission of requests, and the log line and metrics of each."""

from __future__ import annotations

import logging
import time
from typing import TypedDict

from starlette.requests import ClientDisconnect

from aligned_vq.errors import Overloaded
from aligned_vq.telemetry.log_limit import LIMIT
from aligned_vq.telemetry.logs import EVENT
from edge_client.answer import AnswerDetails
from edge_client.gateway.metrics import GatewayMetrics
from edge_client.gateway.openai.refusal import Refusal
from protos.access.quota import Quotas
from protos.access.tokens import TokenHolder

_log = logging.getLogger(__name__)

OK = "ok"
CANCELLED = "cancelled"


class RequestFields(TypedDict, total=False):
    """The fields that a log line may contain; none may hold a user's text."""

    route: str
    caller: str
    """Name of the caller's key, if callers have individual keys."""
    outcome: str
    """ok, cancelled, or the code of the error."""
    seconds: float
    message_bytes: int
    payload_bytes: int
    prompt_tokens: int
    completion_tokens: int


class RequestAdmission:
    """Admits a bounded number of concurrent requests. For one event loop.

    Requests whose image is being received, decoded or waiting to be decoded may take at most half
    of the slots, so that slow uploads and large images do not block other requests.

    Args:
        slots: maximum of concurrent requests.
        image_bytes: memory for long bodies together, each reserved from its announced length until
            its image is decoded.
        quotas: of each caller, if callers have individual keys.
    """

    def __init__(self, slots: int, image_bytes: int, quotas: Quotas | None = None) -> None:
        self._slots = slots
        self._quotas = quotas
        self.image_slots = max(1, slots // 2)
        self.in_flight = 0
        self.images = 0
        self.free_bytes = image_bytes
        self.metrics = GatewayMetrics(lambda: self.in_flight, slots)

    def admit(self, route: str, caller: TokenHolder | None = None) -> AdmittedRequest:
        """Admit a request; `AdmittedRequest.end` must follow.

        Args:
            route: name of the route, for log and metrics.
            caller: holder of the key, if callers have individual keys.

        Raises:
            Overloaded: all slots are taken.
            QuotaExceeded: the caller's quota is used up.
        """
        request = AdmittedRequest(self, route, caller)
        try:
            if self.in_flight >= self._slots:
                raise Overloaded(
                    f"expected at most {self._slots} requests at a time, got one more; try again "
                    "in a moment"
                )
            # Last, as a request that entered its quota must leave it.
            if self._quotas is not None and caller is not None:
                self._quotas.enter(caller.name, caller.limits)
        except Overloaded as error:
            request.report(error)
            raise
        self.in_flight += 1
        return request

    def release(self, caller: TokenHolder | None) -> None:
        """Free the slot of a request that ended."""
        self.in_flight -= 1
        if self._quotas is not None and caller is not None:
            self._quotas.leave(caller.name)


class AdmittedRequest:
    """One request, from its arrival until it is answered or refused."""

    def __init__(
        self, admission: RequestAdmission, route: str, caller: TokenHolder | None = None
    ) -> None:
        self._admission = admission
        self._route = route
        self._caller = caller
        self._started_at = time.monotonic()
        self._has_image_slot = False
        self._body_bytes = 0
        self._fields: RequestFields = {"route": route}
        if caller is not None:
            self._fields["caller"] = caller.name

    def begin_image(self, body_bytes: int = 0) -> None:
        """Take an image slot, and reserve memory for the body; idempotent.

        Raises:
            Overloaded: all image slots, or the memory for bodies, are taken.
        """
        if self._has_image_slot:
            return
        admission = self._admission
        if admission.images >= admission.image_slots or body_bytes > admission.free_bytes:
            raise Overloaded(
                f"expected at most {admission.image_slots} images to be read and decoded at a "
                "time, or fewer large ones, got one more; try again in a moment"
            )
        admission.images += 1
        admission.free_bytes -= body_bytes
        self._has_image_slot, self._body_bytes = True, body_bytes

    def end_image(self) -> None:
        """Free the image slot: the image is decoded, or there is none. Idempotent."""
        if self._has_image_slot:
            self._has_image_slot = False
            self._admission.images -= 1
            self._admission.free_bytes += self._body_bytes

    def record_answer(self, details: AnswerDetails) -> None:
        """Record the sizes and timings of a complete answer."""
        self._admission.metrics.record_answer(details)
        self._fields["message_bytes"] = details.message_bytes
        self._fields["payload_bytes"] = details.payload_bytes
        self._fields["prompt_tokens"] = details.usage.prompt_tokens
        self._fields["completion_tokens"] = details.usage.completion_tokens

    def end(self, error: BaseException | None = None) -> None:
        """Free all slots and report the outcome; `error` is why there was no answer."""
        self.end_image()
        self._admission.release(self._caller)
        self.report(error)

    def report(self, error: BaseException | None) -> None:
        """Write the log line and count the outcome."""
        outcome = OK
        if isinstance(error, Exception) and not isinstance(error, ClientDisconnect):
            refusal = Refusal.of(error)
            outcome = refusal.code or "refused"
            if refusal.status == 500:
                _log.error("a request failed", exc_info=error)
        elif error is not None:
            outcome = CANCELLED
        seconds = time.monotonic() - self._started_at
        self._admission.metrics.requests.labels(self._route, outcome).inc()
        self._fields["outcome"] = outcome
        self._fields["seconds"] = round(seconds, 6)
        subject = self._route
        if self._caller is not None:
            self._admission.metrics.callers.labels(self._caller.name, outcome).inc()
            subject = f"{self._route} from {self._caller.name}"
        # Failures are rate-limited in the log by route and outcome: a caller can cause many.
        limit_key = None if outcome == OK else f"{self._route}: {outcome}"
        extra = {EVENT: dict(self._fields), LIMIT: limit_key}
        _log.info("%s: %s after %.3f s", subject, outcome, seconds, extra=extra)
