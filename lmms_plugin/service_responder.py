"""Answers by a running service: images are encoded here, and payloads are sent."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from aligned_vq.errors import AlignedVQError, ConfigError, InvalidInput
from edge_client.client import EdgeClient
from edge_client.config import EdgeConfig
from lmms_plugin.responder import ModelRequest, ModelResponse, error_note


class ServiceResponder:
    """A `Responder` over an `EdgeClient`.

    Args:
        target: `host:port` of the service, or of several; see `EdgeClient`.
        bundle: directory of the bundle that the service has.
        point: operating point; None: the bundle's default.
        config: deadlines, certificates, token.
        batch_size: concurrent questions.

    Raises:
        CloudUnreachable: no service answered.
        ConfigError: bundle, certificate or token cannot be used.
        InvalidInput: the bundle has no such operating point.
        ManifestMismatch: the service has another bundle.
        Unauthenticated: the service requires a certificate or a token that it knows.
    """

    def __init__(
        self, target: str, bundle: Path, point: str | None, config: EdgeConfig, batch_size: int
    ) -> None:
        self._client = EdgeClient(target, bundle, config)
        self._point = point
        self._client.encoder.check_quality(point)
        # At the start, so that a wrong bundle or address fails before the first question.
        self._max_tokens = self._client.check().max_answer_tokens
        self._pool = ThreadPoolExecutor(batch_size, thread_name_prefix="lmms")

    def answer(self, requests: Sequence[ModelRequest]) -> list[ModelResponse]:
        """See `Responder.answer`."""
        # `map` returns the answers in the order of the requests, whichever ends first.
        return list(self._pool.map(self._answer, requests))

    def log_likelihood(self, request: ModelRequest, continuation: str) -> tuple[float, bool]:
        """Always raises InvalidInput: a service returns text, not probabilities."""
        raise InvalidInput(
            f"{request.name}: expected a task that reads answers (output_type generate_until), got "
            "one that reads probabilities (loglikelihood or multiple_choice, as in seedbench_ppl), "
            "which a service does not return; give checkpoint= instead of target="
        )

    def close(self) -> None:
        """See `Responder.close`."""
        self._pool.shutdown(cancel_futures=True)
        self._client.close()

    def _answer(self, request: ModelRequest) -> ModelResponse:
        sampling = request.sampling
        try:
            answer = self._client.ask(
                request.image,
                request.text,
                quality=self._point,
                max_tokens=sampling.max_tokens,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                seed=sampling.seed,
                stop=sampling.stop,
            )
        except AlignedVQError as error:
            error.add_note(error_note(request))
            raise
        details = answer.details
        self._check_not_truncated(request, details.finish_reason, details.usage.completion_tokens)
        return ModelResponse(
            str(answer), details.usage, details.payload_bytes, details.message_bytes
        )

    def _check_not_truncated(self, request: ModelRequest, finish_reason: str, tokens: int) -> None:
        """ConfigError if the service's limit, and not the task's, ended an answer."""
        max_tokens = request.sampling.max_tokens
        # A truncated answer would be scored as a wrong one: better none.
        if finish_reason == "length" and self._max_tokens <= tokens < max_tokens:
            raise ConfigError(
                f"{request.name}: expected an answer of up to {max_tokens} tokens, got one cut off "
                f"at the service's limit of {self._max_tokens}; start it with "
                f"--max_answer_tokens={max_tokens}, or give --gen_kwargs "
                f"max_new_tokens={self._max_tokens}"
            )
