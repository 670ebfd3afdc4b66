"""What lmms-eval hands over, before anything is asked: settings of tasks, pictures, arguments."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import lmms_eval.tasks
import pytest
from lmms_eval.api.instance import Instance
from lmms_eval.models import get_model, list_available_models
from lmms_eval.utils import load_yaml_config
from PIL import Image

from aligned_vq.answers import Sampling
from aligned_vq.data.scenes.exam import exam_images
from aligned_vq.errors import AlignedVQError, CloudUnreachable, ConfigError, InvalidInput
from aligned_vq.shipped import BUNDLE, CHECKPOINT
from benchmarks.harness.processes import CloudProcess
from lmms_plugin.model import AlignedVQModel
from lmms_plugin.options import batch_of
from lmms_plugin.requests import model_request, sampling_of

TASKS = Path(lmms_eval.tasks.__file__).parent
SPLIT = "checkpoint=reference,bundle=reference"


def test_lmms_eval_finds_the_model_by_its_entry_point() -> None:
    assert "aligned_vq" in list_available_models()
    assert get_model("aligned_vq") is get_model("aligned_vq", force_simple=True) is AlignedVQModel


@pytest.mark.parametrize(
    ("file", "max_tokens", "stop"),
    [
        ("gqa/gqa.yaml", 16, ()),
        ("vizwiz_vqa/vizwiz_vqa_val.yaml", 1024, ("ASSISTANT:",)),
        ("textvqa/textvqa_val.yaml", 1024, ("ASSISTANT:",)),
        ("pope/pope.yaml", 128, ()),
        ("mmbench/mmbench_en_dev.yaml", 1024, ("ASSISTANT:",)),
        ("mmvet/mmvet.yaml", 1024, ()),
        ("llava-in-the-wild/llava-in-the-wild.yaml", 4096, ("ASSISTANT:",)),
    ],
)
def test_settings_of_the_tasks_are_understood(
    file: str, max_tokens: int, stop: tuple[str, ...]
) -> None:
    settings = load_yaml_config(str(TASKS / file), mode="simple")["generation_kwargs"]
    settings.setdefault("until", ["\n\n"])  # as lmms-eval does
    assert sampling_of(settings) == Sampling(max_tokens, stop=stop)


def test_sampling_follows_the_seed() -> None:
    settings = {"do_sample": True, "top_p": 0.9, "until": "Q:"}
    random.seed(0)
    first, second = sampling_of(settings), sampling_of(settings)
    random.seed(0)
    assert sampling_of(settings) == first
    assert first.seed != second.seed
    assert first == Sampling(1024, temperature=1.0, top_p=0.9, seed=first.seed, stop=("Q:",))
    assert sampling_of({"temperature": 0.2}).temperature == 0.2
    assert sampling_of({"temperature": 0.2, "do_sample": False}) == Sampling(1024)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_beams": 4}, "expected num_beams=1, got 4"),
        ({"repetition_penalty": 1.2}, "expected repetition_penalty=1, got 1.2"),
        ({"top_k": 5}, "expected generation settings among .*, got top_k=5"),
        ({"top_p": 2, "do_sample": True}, "top_p from 0.000001 to 1"),
        ({"max_new_tokens": 10**9}, "max_tokens from 0"),
    ],
)
def test_other_settings_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(AlignedVQError, match=words):
        sampling_of(settings)


@pytest.mark.parametrize("visuals", ["film.mp4", ["film.mp4"], [{"array": [0.0]}]])
def test_only_pictures_are_taken(visuals: Any) -> None:
    with pytest.raises(InvalidInput, match=r"expected an image, got (str|dict)"):
        model_request("document 3", "What is it?", visuals, Sampling())


def test_pictures_become_rgb_and_none_is_none() -> None:
    gray = Image.new("L", (30, 20), 7)
    for visuals in (gray, [gray], (gray,)):
        asked = model_request("document 3", "What is it?", visuals, Sampling())
        assert asked.image is not None
        assert (asked.image.mode, asked.image.size) == ("RGB", (30, 20))
    nothing: Any
    for nothing in (None, []):
        assert model_request("document 3", "What is it?", nothing, Sampling()).image is None


@pytest.mark.parametrize(
    ("model_args", "error", "words"),
    [
        ("", ConfigError, "got neither"),
        (f"{SPLIT},target=127.0.0.1:1", ConfigError, "got both"),
        ("checkpoint=reference,point=low", ConfigError, "expected bundle=... with point=low"),
        (f"{SPLIT},point=huge", InvalidInput, "medium, low, high, fixed.*got 'huge'"),
        (f"{SPLIT},ca=ca.pem", ConfigError, "model_args: .*ca"),
        (f"{SPLIT},dtype=float8", ConfigError, "model_args: .*float8"),
        (f"{SPLIT},device=tpu", ConfigError, "expected device auto, cpu or cuda"),
        ("target=127.0.0.1:1", ConfigError, "expected bundle=... with target"),
        ("target=127.0.0.1:1,bundle=reference,cert=a.pem", ConfigError, "model_args: .*cert"),
        ("target=127.0.0.1:1,bundle=reference,ca=a.pem", ConfigError, "expected tls with ca"),
        ("target=127.0.0.1:1,bundle=reference,connect_seconds=1", CloudUnreachable, "127.0.0.1:1"),
        (f"{SPLIT},batch_size=0", ConfigError, "batch_size must be auto or at least 1, got 0"),
    ],
)
def test_arguments_that_cannot_be_used_are_named(
    model_args: str, error: type[AlignedVQError], words: str
) -> None:
    with pytest.raises(error, match=words):
        AlignedVQModel.create_from_arg_string(model_args)


def test_a_batch_is_a_number_or_auto() -> None:
    assert [batch_of("auto", None), batch_of("auto:4", 5), batch_of("7", None)] == [8, 5, 7]


def test_a_service_tells_no_probabilities_and_cuts_no_answer_silently() -> None:
    place = (lambda document: document, 0, "seedbench", "test")
    with CloudProcess(BUNDLE, CHECKPOINT, "--max_answer_tokens=2") as service:
        model = AlignedVQModel.create_from_arg_string(f"target={service.target},bundle=reference")
        model.task_dict = {"seedbench": {"test": [next(exam_images(1)).image]}}
        asked = _instance("loglikelihood", "Is it so?", " yes", *place)
        with pytest.raises(InvalidInput, match="which a service does not return; give checkpoint="):
            model.loglikelihood([asked])
        asked = _instance("generate_until", "Describe the picture.", {"max_new_tokens": 9}, *place)
        with pytest.raises(ConfigError, match=r"0 of seedbench .* --max_answer_tokens=9"):
            model.generate_until([asked])
        asked = _instance("generate_until", "Describe the picture.", {"max_new_tokens": 2}, *place)
        (told,) = model.generate_until([asked])
        assert told.token_counts.output_tokens == 2
        model.clean()


def test_an_error_on_one_question_names_its_document() -> None:
    model = AlignedVQModel.create_from_arg_string(SPLIT)
    model.task_dict = {"gqa": {"test": [None]}}
    place = (lambda document: None, 0, "gqa", "test")
    with pytest.raises(InvalidInput, match="reserved token '<image>'") as raised:
        model.generate_until([_instance("generate_until", "<image> What is it?", {}, *place)])
    assert raised.value.__notes__ == ["while answering document 0 of gqa (test)"]
    model.clean()


def _instance(kind: str, *arguments: Any) -> Instance:
    metadata = {"task": arguments[-2], "doc_id": arguments[-3], "repeats": 1}
    return Instance(kind, arguments, 0, metadata)
