"""Places for requests, and what is told of each: in metrics and in a line of the log."""

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
    """All that may be told. A field that could hold a user's words has no place here."""

    route: str
    caller: str
    """The name that its key has, where callers have keys of their own."""
    outcome: str
    """ok, cancelled, or the code of the error."""
    seconds: float
    message_bytes: int
    payload_bytes: int
    prompt_tokens: int
    completion_tokens: int


class Desk:
    """Lets so many requests in at a time. Used from the event loop only.

    Images whose requests are read, or that are decoded or wait for it, hold half of the places at
    most, so that they keep no other question out.

    Args:
        places: requests answered at once.
        image_bytes: of long bodies together, from their announcement until the image is decoded.
        quotas: of each caller, where callers have keys of their own.
    """

    def __init__(self, places: int, image_bytes: int, quotas: Quotas | None = None) -> None:
        self._places = places
        self._quotas = quotas
        self.image_places = max(1, places // 2)
        self.in_flight = 0
        self.images = 0
        self.free_bytes = image_bytes
        self.metrics = GatewayMetrics(lambda: self.in_flight, places)

    def enter(self, route: str, caller: TokenHolder | None = None) -> AdmittedRequest:
        """A request came; `AdmittedRequest.leave` must follow.

        Args:
            route: for people.
            caller: whose it is, where callers have keys of their own.

        Raises:
            Overloaded: all places are taken, or (QuotaExceeded) all of this caller.
        """
        visit = AdmittedRequest(self, route, caller)
        try:
            if self.in_flight >= self._places:
                raise Overloaded(
                    f"expected at most {self._places} requests at a time, got one more; try again "
                    "in a moment"
                )
            if self._quotas is not None and caller is not None:
                self._quotas.enter(caller.name, caller.limits)
        except Overloaded as error:
            visit.tell(error)
            raise
        self.in_flight += 1
        return visit

    def left(self, caller: TokenHolder | None) -> None:
        """A request that `enter` let in has ended."""
        self.in_flight -= 1
        if self._quotas is not None and caller is not None:
            self._quotas.leave(caller.name)


class AdmittedRequest:
    """One request, from its arrival until it was answered or refused."""

    def __init__(self, desk: Desk, route: str, caller: TokenHolder | None = None) -> None:
        self._desk = desk
        self._route = route
        self._caller = caller
        self._started = time.monotonic()
        self._holds_image = False
        self._body_bytes = 0
        self._fields: RequestFields = {"route": route}
        if caller is not None:
            self._fields["caller"] = caller.name

    def begin_image(self, body_bytes: int = 0) -> None:
        """From now on it counts as one with an image, of so long a body; harmless when repeated.

        Raises:
            Overloaded: there are as many of those as may be.
        """
        if self._holds_image:
            return
        desk = self._desk
        if desk.images >= desk.image_places or body_bytes > desk.free_bytes:
            raise Overloaded(
                f"expected at most {desk.image_places} images to be read and decoded at a time, "
                "or fewer large ones, got one more; try again in a moment"
            )
        desk.images += 1
        desk.free_bytes -= body_bytes
        self._holds_image, self._body_bytes = True, body_bytes

    def end_image(self) -> None:
        """Its image is decoded, or there is none."""
        if self._holds_image:
            self._holds_image = False
            self._desk.images -= 1
            self._desk.free_bytes += self._body_bytes

    def answered(self, details: AnswerDetails) -> None:
        """The cloud's answer is whole."""
        self._desk.metrics.answered(details)
        self._fields["message_bytes"] = details.message_bytes
        self._fields["payload_bytes"] = details.payload_bytes
        self._fields["prompt_tokens"] = details.usage.prompt_tokens
        self._fields["completion_tokens"] = details.usage.completion_tokens

    def leave(self, error: BaseException | None = None) -> None:
        """It is over; `error` says why it was not answered."""
        self.end_image()
        self._desk.left(self._caller)
        self.tell(error)

    def tell(self, error: BaseException | None) -> None:
        """One line of the log, and the metrics."""
        outcome = OK
        if isinstance(error, Exception) and not isinstance(error, ClientDisconnect):
            refusal = Refusal.of(error)
            outcome = refusal.code or "refused"
            if refusal.status == 500:
                _log.error("a request failed", exc_info=error)
        elif error is not None:
            outcome = CANCELLED
        seconds = time.monotonic() - self._started
        self._desk.metrics.requests.labels(self._route, outcome).inc()
        self._fields["outcome"] = outcome
        self._fields["seconds"] = round(seconds, 6)
        asked = self._route
        if self._caller is not None:
            self._desk.metrics.callers.labels(self._caller.name, outcome).inc()
            asked = f"{self._route} from {self._caller.name}"
        words = (asked, outcome, seconds)
        kind = None if outcome == OK else f"{self._route}: {outcome}"
        extra = {EVENT: dict(self._fields), LIMIT: kind}
        _log.info("%s: %s after %.3f s", *words, extra=extra)
