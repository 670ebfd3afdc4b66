"""Every error this project raises on purpose.

    AlignedVQError
    |-- ConfigError         settings, bundle or checkpoint are unusable: mend them and start again
    |-- InvalidInput        this image or question cannot be served: send another
    |   `-- ImageNotHeld        the image named by its digest is not there: send its payload
    |-- ManifestMismatch    edge and cloud hold different bundles: install the same one on both
    |-- CorruptPayload      the bytes do not decode: send them again
    |-- Overloaded          the service is full: try again later
    |   `-- QuotaExceeded       this client asked more than its share: wait as long as told
    |-- EngineError         the service failed inside: its log says why
    |-- Unauthenticated     the service does not know this client: give a certificate or a token
    |-- TrainingError       a training run cannot go on: its last checkpoint is kept
    `-- CloudUnreachable    no service answered at the address
        `-- DeadlineExceeded    it answered too slowly

Each message says what was expected, what came and what to do. `protos.status` maps them to gRPC.
"""

from __future__ import annotations


class AlignedVQError(Exception):
    """Base of all errors raised on purpose."""


class ConfigError(AlignedVQError):
    """A setting, a bundle or a checkpoint cannot be used."""


class InvalidInput(AlignedVQError):
    """An image or a question cannot be served; the next one may."""


class ImageNotHeld(InvalidInput):
    """A question named an image that the service does not hold for this client."""


class ManifestMismatch(AlignedVQError):
    """The payload was made with another bundle than the one that should decode it."""


class CorruptPayload(AlignedVQError):
    """A payload is truncated, damaged or not of the one shape its manifest allows."""


class Overloaded(AlignedVQError):
    """The service is at its limit of questions in flight."""

    retry_after_seconds: float | None = None
    """How long to wait before another try, where the service knows."""


class QuotaExceeded(Overloaded):
    """One client is at its own limit; others are served."""

    def __init__(self, words: str = "", retry_after_seconds: float | None = None) -> None:
        super().__init__(words)
        self.retry_after_seconds = retry_after_seconds


class Unauthenticated(AlignedVQError):
    """The service asks who calls, and the call did not say so in a way that it knows."""


class EngineError(AlignedVQError):
    """The language engine failed on a valid request."""


class TrainingError(AlignedVQError):
    """A training run cannot go on; what it saved is kept."""


class CloudUnreachable(AlignedVQError):
    """Nothing that speaks this protocol answered at the address."""

    another_service: bool = False
    """Something else answered there: another try is in vain."""


class DeadlineExceeded(CloudUnreachable):
    """The service did not answer within the deadline."""
