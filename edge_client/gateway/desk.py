"""Places for requests, and what is told of each: in metrics and in a line of the log."""

from __future__ import annotations

import logging
import time
from typing import TypedDict

from starlette.requests import ClientDisconnect

from aligned_vq.errors import Overloaded
from edge_client.answer import AnswerDetails
from edge_client.gateway.metrics import GatewayMetrics
from edge_client.gateway.refusal import Refusal
from protos.logs import EVENT

_log = logging.getLogger(__name__)

OK = "ok"
CANCELLED = "cancelled"


class RequestFields(TypedDict, total=False):
    """All that may be told. A field that could hold a user's words has no place here."""

    route: str
    outcome: str
    """ok, cancelled, or the code of the error."""
    seconds: float
    message_bytes: int
    payload_bytes: int
    prompt_tokens: int
    completion_tokens: int


class Desk:
    """Lets so many requests in at a time. Used from the event loop only.

    Args:
        places: requests answered at once.
    """

    def __init__(self, places: int) -> None:
        self._places = places
        self.in_flight = 0
        self.metrics = GatewayMetrics(lambda: self.in_flight)

    def enter(self, route: str) -> Visit:
        """A request came; `Visit.leave` must follow.

        Raises:
            Overloaded: all places are taken.
        """
        visit = Visit(self, route)
        if self.in_flight >= self._places:
            error = Overloaded(
                f"expected at most {self._places} requests at a time, got one more; try again in a "
                "moment"
            )
            visit.tell(error)
            raise error
        self.in_flight += 1
        return visit


class Visit:
    """One request, from its arrival until it was answered or refused."""

    def __init__(self, desk: Desk, route: str) -> None:
        self._desk = desk
        self._route = route
        self._started = time.monotonic()
        self._fields: RequestFields = {"route": route}

    def answered(self, details: AnswerDetails) -> None:
        """The cloud's answer is whole."""
        self._desk.metrics.answered(details)
        self._fields["message_bytes"] = details.message_bytes
        self._fields["payload_bytes"] = details.payload_bytes
        self._fields["prompt_tokens"] = details.usage.prompt_tokens
        self._fields["completion_tokens"] = details.usage.completion_tokens

    def leave(self, error: BaseException | None = None) -> None:
        """It is over; `error` says why it was not answered."""
        self._desk.in_flight -= 1
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
        words = (self._route, outcome, seconds)
        _log.info("%s: %s after %.3f s", *words, extra={EVENT: dict(self._fields)})
