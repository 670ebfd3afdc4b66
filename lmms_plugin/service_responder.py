"""Answers by a running service: pictures are encoded here, and payloads cross the wire."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from aligned_vq.errors import AlignedVQError, ConfigError, InvalidInput
from edge_client.client import EdgeClient
from edge_client.config import EdgeConfig
from lmms_plugin.asked import ModelRequest, ModelResponse, about


class ServiceResponder:
    """An `Answerer`; see there.

    Args:
        target: `host:port` of the service, or of several; see `EdgeClient`.
        bundle: directory of the bundle, the service's own.
        point: operating point; None: the bundle's default.
        config: deadlines, certificates, token.
        batch: questions in flight.

    Raises:
        CloudUnreachable: no service answered.
        ConfigError: bundle, certificate or token cannot be used.
        InvalidInput: the bundle has no such operating point.
        ManifestMismatch: the service has another bundle.
        Unauthenticated: it wants a certificate or a token that it knows.
    """

    def __init__(
        self, target: str, bundle: Path, point: str | None, config: EdgeConfig, batch: int
    ) -> None:
        self._client = EdgeClient(target, bundle, config)
        self._point = point
        self._client.encoder.check_quality(point)
        self._max_tokens = self._client.check().max_answer_tokens
        self._pool = ThreadPoolExecutor(batch, thread_name_prefix="lmms")

    def answer(self, asked: Sequence[ModelRequest]) -> list[ModelResponse]:
        """See `Answerer.answer`."""
        return list(self._pool.map(self._told, asked))

    def log_likelihood(self, asked: ModelRequest, continuation: str) -> tuple[float, bool]:
        """InvalidInput: a service tells answers, and no probabilities."""
        raise InvalidInput(
            f"{asked.name}: expected a task that reads answers (output_type generate_until), got "
            "one that reads probabilities (loglikelihood or multiple_choice, as in seedbench_ppl), "
            "which a service does not tell; give checkpoint= instead of target="
        )

    def close(self) -> None:
        """See `Answerer.close`."""
        self._pool.shutdown(cancel_futures=True)
        self._client.close()

    def _told(self, asked: ModelRequest) -> ModelResponse:
        sampling = asked.sampling
        try:
            answer = self._client.ask(
                asked.picture,
                asked.text,
                quality=self._point,
                max_tokens=sampling.max_tokens,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                seed=sampling.seed,
                stop=sampling.stop,
            )
        except AlignedVQError as error:
            error.add_note(about(asked))
            raise
        details = answer.details
        self._check_not_cut(asked, details.finish_reason, details.usage.completion_tokens)
        return ModelResponse(
            str(answer), details.usage, details.payload_bytes, details.message_bytes
        )

    def _check_not_cut(self, asked: ModelRequest, finish_reason: str, tokens: int) -> None:
        """ConfigError where the service's limit, not the task's, ended an answer."""
        wanted = asked.sampling.max_tokens
        if finish_reason == "length" and self._max_tokens <= tokens < wanted:
            raise ConfigError(
                f"{asked.name}: expected room for {wanted} tokens of answer, got cut off at the "
                f"service's {self._max_tokens}; start it with --max_answer_tokens={wanted}, or "
                f"give --gen_kwargs max_new_tokens={self._max_tokens}"
            )
