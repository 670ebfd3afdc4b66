"""The project's exceptions, with what the caller should do about each.

    AlignedVQError
    |-- ConfigError         unusable settings, bundle or checkpoint: correct them and start again
    |-- InvalidInput        this image or question cannot be served: send another
    |   `-- ImageNotHeld        the service does not hold the image of this digest: send its payload
    |-- ManifestMismatch    edge and cloud use different bundles: install the same one on both
    |-- CorruptPayload      the payload does not decode: send it again
    |-- Overloaded          the service is at its limit: retry later
    |   `-- QuotaExceeded       this client is at its quota: retry after the delay in the error
    |-- EngineError         the service failed internally: see its log
    |-- Unauthenticated     the service does not recognise this client: give a certificate or token
    |-- TrainingError       a training run cannot continue: resume from its last checkpoint
    `-- CloudUnreachable    no service answered at the address
        `-- DeadlineExceeded    the service did not answer before the deadline

Each message states what was expected, what was received and what to do. `protos.status` maps the
classes to gRPC statuses.
"""

from __future__ import annotations


class AlignedVQError(Exception):
    """Base class of the project's exceptions."""


class ConfigError(AlignedVQError):
    """A setting, a bundle or a checkpoint is invalid."""


class InvalidInput(AlignedVQError):
    """This image or question cannot be served; others may be."""


class ImageNotHeld(InvalidInput):
    """A question referred to an image that the service does not hold for this client."""


class ManifestMismatch(AlignedVQError):
    """The payload was encoded with a bundle other than the decoder's."""


class CorruptPayload(AlignedVQError):
    """A payload is truncated, damaged or not in the layout that its manifest prescribes."""


class Overloaded(AlignedVQError):
    """The service is at its limit of requests in flight."""

    retry_after_seconds: float | None = None
    """Delay before a retry, if the service gave one."""


class QuotaExceeded(Overloaded):
    """The client has used its quota; other clients are still served."""

    def __init__(self, message: str = "", retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class Unauthenticated(AlignedVQError):
    """The service requires authentication, and the call had no valid certificate or token."""


class EngineError(AlignedVQError):
    """The language engine failed on a valid request."""


class TrainingError(AlignedVQError):
    """A training run cannot continue; its saved checkpoints remain valid."""


class CloudUnreachable(AlignedVQError):
    """No service with this protocol answered at the address."""

    another_service: bool = False
    """A service with another protocol answered: a retry is pointless."""


class DeadlineExceeded(CloudUnreachable):
    """The service did not answer within the deadline."""
