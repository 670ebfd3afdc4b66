"""The model class that lmms-eval instantiates and calls."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from accelerate import Accelerator
from lmms_eval.api.instance import GenerationResult, TokenCounts
from lmms_eval.api.model import lmms
from tqdm import tqdm

from aligned_vq.answers import Sampling
from lmms_plugin.options import batch_of, open_responder
from lmms_plugin.requests import model_request, sampling_of
from lmms_plugin.responder import ModelRequest, ModelResponse

_PADDING_KEY = "__padding_only__"
"""Metadata key by which lmms-eval marks repeated requests, which give all processes the same
number."""


class DocumentLocation(NamedTuple):
    """Identifies the document of a request."""

    doc_id: int
    task: str
    split: str

    def __str__(self) -> str:
        return f"document {self.doc_id} of {self.task} ({self.split})"


class AlignedVQModel(lmms):
    """A LLaVA for lmms-eval's tasks: unsplit, with the codec in this process, or over a service.

        python -m lmms_eval --model aligned_vq --tasks gqa,pope --model_args ...

        checkpoint=llava-hf/llava-1.5-7b-hf                          unsplit: the baseline
        checkpoint=llava-hf/llava-1.5-7b-hf,bundle=bundle/,point=low both halves in this process
        target=127.0.0.1:50051,bundle=bundle/,point=low              edge half in this process

    All three prepare images alike, by the processor settings in the bundle or the checkpoint, and
    use the checkpoint's chat template and the same engine. LLaVA-1.5 was trained and published with
    images padded to a square. The settings of llava-hf's checkpoints crop the centre instead, and
    lmms-eval's `llava_hf` follows them. To pad, set `LlavaImageProcessor` with `do_pad` in the
    checkpoint's settings before `aligned-vq export`.

    Args:
        checkpoint: directory in Hugging Face format, hub id, or `reference`.
        bundle: directory written by `aligned-vq export`, or `reference`.
        point: operating point of the bundle, such as low; default: the bundle's.
        target: `host:port` of a running service, instead of `checkpoint`.
        bytes_log: file for a line of JSON per question: `task`, `split`, `doc_id`, `payload_bytes`
            (null for the unsplit model), and with `target` `message_bytes`. Every question counts
            the payload of its image, even if another one had the same image. Several processes
            append to one file, in any order; the requests by which lmms-eval pads the number per
            process are left out.
        device: device of the model; default: a GPU if there is one. The edge half runs on the
            backend of edge clients.
        batch_size: concurrent questions, or `auto`.
        max_batch_size: concurrent questions with `auto`.
        more: with `checkpoint`, `dtype` and `revision` (`InProcessConfig`); with `target`, the
            fields of `EdgeConfig`, such as tls, ca, certificate, key and token_file.

    Raises:
        AlignedVQError: an argument cannot be used, or the service cannot be reached.
    """

    is_simple = True

    def __init__(
        self,
        checkpoint: str | None = None,
        bundle: str | None = None,
        point: str | None = None,
        target: str | None = None,
        bytes_log: str | None = None,
        device: str | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        **more: Any,
    ) -> None:
        super().__init__()
        self.batch_size = batch_of(batch_size, max_batch_size)
        self.accelerator = Accelerator()
        self.device = self.accelerator.device
        if device is None and self.accelerator.num_processes > 1:
            device = str(self.device)  # `accelerate launch` assigns one to each process
        self._responder = open_responder(
            target=target,
            checkpoint=checkpoint,
            bundle=bundle,
            point=point,
            device=device,
            batch_size=self.batch_size,
            options=more,
        )
        self._bytes_log = Path(bytes_log) if bytes_log else None
        # One process truncates the log, and the others wait for it before they append.
        if self._bytes_log and self.accelerator.is_main_process:
            self._bytes_log.write_text("")
        self.accelerator.wait_for_everyone()

    def generate_until(self, requests: Sequence[Any]) -> list[GenerationResult]:
        """Answers with token counts, in the order of the requests.

        Raises:
            AlignedVQError: a question has no answer; a note on the error names the document.
        """
        results: list[GenerationResult] = []
        with self._progress(requests) as bar:
            for start in range(0, len(requests), self.batch_size):
                batch = requests[start : start + self.batch_size]
                model_requests = []
                # lmms-eval's requests carry positional arguments, which differ by request type.
                for context, settings, visuals, *location_fields in (item.args for item in batch):
                    location = DocumentLocation(*location_fields)
                    images = visuals(self._document(location))
                    model_requests.append(
                        model_request(str(location), context, images, sampling_of(settings))
                    )
                responses = self._answer(model_requests, batch)
                results += [_result(response) for response in responses]
                bar.update(len(responses))
        return results

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[list[str]]:
        """The answers of all rounds, by request. Each round is a separate question, about the image
        that the task provides for it. Raises as `generate_until`."""
        results = []
        with self._progress(requests) as bar:
            for request in requests:
                results.append(self._answer_rounds(request))
                bar.update()
        return results

    def loglikelihood(self, requests: Sequence[Any]) -> list[GenerationResult]:
        """Pairs, in place of a text, of the negated sum of the log-probabilities of a request's
        continuation, and whether it is the greedy answer.

        lmms-eval's interface demands the sum itself, but its scores select the choice with the
        smallest value, as its models return losses. It converts a bare pair to text, but passes on
        the content of a `GenerationResult` (not with `--use_cache`, which unwraps it).

        Raises:
            AlignedVQError: a question cannot be answered, or a service is to answer it.
        """
        results = []
        with self._progress(requests) as bar:
            for context, target, visuals, *location_fields in (item.args for item in requests):
                location = DocumentLocation(*location_fields)
                document = self._document(location)
                request = model_request(str(location), context, visuals(document), Sampling())
                continuation = target(document) if callable(target) else target
                log_probability, is_greedy = self._responder.log_likelihood(request, continuation)
                # Negated: lmms-eval's scores take the smallest value, see above.
                results.append(GenerationResult((-log_probability, is_greedy)))
                bar.update()
        return results

    def clean(self) -> None:
        """Release the model or the connection; lmms-eval calls it after the last answer."""
        self._responder.close()
        super().clean()

    def _answer_rounds(self, request: Any) -> list[str]:
        context, settings, visuals, next_round, *location_fields = request.args
        location = DocumentLocation(*location_fields)
        document = self._document(location)
        images, round_info = visuals(document), None
        answers: Sequence[str] = ()
        for number in itertools.count(1):
            round_request = model_request(str(location), context, images, sampling_of(settings))
            (response,) = self._answer([round_request], [request])
            # The task decides by the answers so far whether, and about what, to ask again.
            images, context, is_last, answers, round_info = next_round(
                document,
                previous_output=[*answers, response.text],
                round_idx=number,
                previous_round_info=round_info,
            )
            if is_last:
                break
        return list(answers)

    def _answer(
        self, model_requests: Sequence[ModelRequest], requests: Sequence[Any]
    ) -> list[ModelResponse]:
        """The responses; their sizes go to the log under the documents of lmms-eval's requests."""
        responses = self._responder.answer(model_requests)
        if self._bytes_log:
            lines = "".join(
                json.dumps({**_location(request)._asdict(), **_sizes(response)}) + "\n"
                for response, request in zip(responses, requests, strict=True)
                if not request.metadata.get(_PADDING_KEY)
            )
            # One unbuffered write in append mode: lines of several processes do not interleave.
            with self._bytes_log.open("ab", buffering=0) as log:
                log.write(lines.encode())
        return responses

    def _document(self, location: DocumentLocation) -> Any:
        return self.task_dict[location.task][location.split][location.doc_id]

    def _progress(self, requests: Sequence[Any]) -> tqdm[Any]:
        return tqdm(total=len(requests), desc="aligned_vq", disable=self.rank != 0)


def _location(request: Any) -> DocumentLocation:
    # The location is last in the arguments of every request type.
    return DocumentLocation(*request.args[-3:])


def _result(response: ModelResponse) -> GenerationResult:
    usage = response.usage
    counts = TokenCounts(usage.prompt_tokens, usage.completion_tokens)
    return GenerationResult(response.text, counts)


def _sizes(response: ModelResponse) -> dict[str, int | None]:
    sizes = {"payload_bytes": response.payload_bytes}
    if response.message_bytes is not None:
        sizes["message_bytes"] = response.message_bytes
    return sizes
