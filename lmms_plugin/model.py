"""The class that lmms-eval runs."""

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
from lmms_plugin.asked import ModelRequest, ModelResponse
from lmms_plugin.options import batch_of, open_answerer
from lmms_plugin.requests import question, sampling_of

_ASKED_AGAIN = "__padding_only__"
"""lmms-eval's mark on a request of no document, which gives all processes the same number."""


class BatchPlace(NamedTuple):
    """Where a request's document is."""

    doc_id: int
    task: str
    split: str

    def __str__(self) -> str:
        return f"document {self.doc_id} of {self.task} ({self.split})"


class AlignedVQModel(lmms):
    """A LLaVA asked by lmms-eval's tasks: in one piece, through the codec, or through a service.

        python -m lmms_eval --model aligned_vq --tasks gqa,pope --model_args ...

        checkpoint=llava-hf/llava-1.5-7b-hf                          in one piece: the baseline
        checkpoint=llava-hf/llava-1.5-7b-hf,bundle=bundle/,point=low             in this process
        target=127.0.0.1:50051,bundle=bundle/,point=low         edge in this process, cloud there

    All three prepare pictures alike, by the processor settings in the bundle or the checkpoint, use
    the checkpoint's own chat template and the same engine. LLaVA-1.5 was trained on, and reports
    figures with, pictures padded to a square. The settings that llava-hf's checkpoints come with
    crop the middle instead, and lmms-eval's `llava_hf` goes by them. `LlavaImageProcessor` with
    `do_pad` in the checkpoint's settings, before `aligned-vq export`, pads.

    Args:
        checkpoint: directory in Hugging Face format, hub id, or `reference`.
        bundle: directory written by `aligned-vq export`, or `reference`.
        point: operating point of the bundle, such as low; left out, its default.
        target: `host:port` of a running service, instead of `checkpoint`.
        bytes_log: file for a line of JSON for every question: `task`, `split`, `doc_id`,
            `payload_bytes` (null for the model in one piece), and with `target` `message_bytes`.
            Every question pays for its picture, however many there are about it. Several
            processes add to one file, in no order; what lmms-eval asks again to give them equally
            much is left out.
        device: where the model runs; left out, a GPU if there is one. The edge's part of it runs
            as on an edge.
        batch_size: questions answered at the same time.
        max_batch_size: the same for `auto`.
        more: with `checkpoint`, `dtype` and `revision` (`InProcessConfig`); with `target`, all of
            `EdgeConfig`: tls, ca, certificate, key, token_file and the rest.

    Raises:
        AlignedVQError: an argument cannot be used, or the service not be reached.
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
            device = str(self.device)  # every process of `accelerate launch` has its own
        self._answerer = open_answerer(
            target, checkpoint, bundle, point, device, self.batch_size, more
        )
        self._bytes_log = Path(bytes_log) if bytes_log else None
        if self._bytes_log and self.accelerator.is_main_process:
            self._bytes_log.write_text("")
        self.accelerator.wait_for_everyone()

    def generate_until(self, requests: Sequence[Any]) -> list[GenerationResult]:
        """Answers, with their tokens counted, in the requests' order.

        Raises:
            AlignedVQError: a question has no answer; a note on it names the document.
        """
        found: list[GenerationResult] = []
        with self._progress(requests) as bar:
            for start in range(0, len(requests), self.batch_size):
                batch = requests[start : start + self.batch_size]
                asked = []
                for context, settings, visuals, *rest in (own.args for own in batch):
                    place = BatchPlace(*rest)
                    pictures = visuals(self._document(place))
                    asked.append(question(str(place), context, pictures, sampling_of(settings)))
                told = self._told(asked, batch)
                found += [_result(own) for own in told]
                bar.update(len(told))
        return found

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[list[str]]:
        """The answers of every round, by request. Each round is a question of its own, about the
        picture that the task gives for it. Raises as `generate_until`."""
        found = []
        with self._progress(requests) as bar:
            for request in requests:
                found.append(self._rounds(request))
                bar.update()
        return found

    def loglikelihood(self, requests: Sequence[Any]) -> list[GenerationResult]:
        """For each request's continuation, the negated sum of its tokens' log-probabilities, and
        whether it is the greedy answer: a pair where a result has its text.

        lmms-eval's interface asks for the sum itself, but its scores take the choice with the
        least, since its own models return losses. It turns a bare pair into text, and passes on
        untouched what a `GenerationResult` holds (not with `--use_cache`, which strips it).

        Raises:
            AlignedVQError: a question cannot be asked, or not through a service.
        """
        found = []
        with self._progress(requests) as bar:
            for context, target, visuals, *rest in (own.args for own in requests):
                place = BatchPlace(*rest)
                document = self._document(place)
                asked = question(str(place), context, visuals(document), Sampling())
                continuation = target(document) if callable(target) else target
                total, greedy = self._answerer.log_likelihood(asked, continuation)
                found.append(GenerationResult((-total, greedy)))
                bar.update()
        return found

    def clean(self) -> None:
        """Called once every answer is there: lets go of the model, or hangs up."""
        self._answerer.close()
        super().clean()

    def _rounds(self, request: Any) -> list[str]:
        context, settings, visuals, next_round, *rest = request.args
        place = BatchPlace(*rest)
        document = self._document(place)
        pictures, notes = visuals(document), None
        answers: Sequence[str] = ()
        for number in itertools.count(1):
            asked = question(str(place), context, pictures, sampling_of(settings))
            (told,) = self._told([asked], [request])
            pictures, context, ended, answers, notes = next_round(
                document,
                previous_output=[*answers, told.text],
                round_idx=number,
                previous_round_info=notes,
            )
            if ended:
                break
        return list(answers)

    def _told(self, asked: Sequence[ModelRequest], requests: Sequence[Any]) -> list[ModelResponse]:
        told = self._answerer.answer(asked)
        if self._bytes_log:
            lines = "".join(
                json.dumps({**BatchPlace(*request.args[-3:])._asdict(), **_bytes(own)}) + "\n"
                for own, request in zip(told, requests, strict=True)
                if not request.metadata.get(_ASKED_AGAIN)
            )
            with self._bytes_log.open("ab", buffering=0) as log:
                log.write(lines.encode())  # at once: no line lands within another process's
        return told

    def _document(self, place: BatchPlace) -> Any:
        return self.task_dict[place.task][place.split][place.doc_id]

    def _progress(self, requests: Sequence[Any]) -> tqdm[Any]:
        return tqdm(total=len(requests), desc="aligned_vq", disable=self.rank != 0)


def _result(told: ModelResponse) -> GenerationResult:
    usage = told.usage
    return GenerationResult(told.text, TokenCounts(usage.prompt_tokens, usage.completion_tokens))


def _bytes(told: ModelResponse) -> dict[str, int | None]:
    own = {"payload_bytes": told.payload_bytes}
    return own if told.message_bytes is None else {**own, "message_bytes": told.message_bytes}
