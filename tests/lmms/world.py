"""The reference world as tasks of lmms-eval: data sets in Parquet files, and YAML beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from datasets import Dataset, Features, Image, Sequence, Value

from aligned_vq.data.scenes.exam import exam_images

QUESTIONS = 24
COLOURS = ("red", "green", "blue", "yellow")
DESCRIBE = "Describe the picture."

# What YAML alone cannot say.
_FUNCTIONS = f'''
def pictures(document):
    return document["images"]


def rounds(document, lmms_eval_specific_kwargs=None, previous_output=None, round_idx=None,
           previous_round_info=None):
    """The question; then the request for a description of the same picture; then the end."""
    if round_idx is None:
        return document["question"]
    ended = round_idx == 2
    return pictures(document), {DESCRIBE!r}, ended, previous_output, "seen"


def first_round(document, results):
    (answers,) = results
    return {{"first_round": float(answers[0].strip() == document["answer"])}}
'''
# As in lmms-eval's task for GQA.
_GREEDY = {"max_new_tokens": 16, "temperature": 0, "top_p": 1.0, "num_beams": 1, "do_sample": False}


def documents() -> list[dict[str, Any]]:
    """Pictures with short questions of all kinds and their answers, `QUESTIONS` of them."""
    return [
        {"images": [image.image], "question": question.text, "answer": question.answer}
        for image in exam_images(QUESTIONS)
        for question in image.questions[:-1]
    ]


def colour_documents() -> list[dict[str, Any]]:
    """Those whose answer is one of `COLOURS`, which are their choices."""
    return [own | {"choices": COLOURS} for own in documents() if own["answer"] in COLOURS]


def write_tasks(folder: Path) -> None:
    """The tasks `world`, `world_text` (no pictures), `world_pairs` (two pictures), `world_choices`
    (probabilities) and `world_rounds` (two questions each)."""
    (folder / "functions.py").write_text(_FUNCTIONS)
    asked = documents()
    exact = {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}
    answers = {"generation_kwargs": _GREEDY, "metric_list": [exact]}
    _write(folder, "world", asked, answers)
    _write(folder, "world_text", [own | {"images": []} for own in asked[:3]], answers)
    _write(folder, "world_pairs", [own | {"images": own["images"] * 2} for own in asked], answers)
    choices = {
        "output_type": "multiple_choice",
        "doc_to_choice": "choices",
        "metric_list": [exact | {"metric": "acc"}],
    }
    _write(folder, "world_choices", colour_documents(), choices)
    rounds = {
        "output_type": "generate_until_multi_round",
        "generation_kwargs": {"max_new_tokens": 48, "until": []},
        "metric_list": [exact | {"metric": "first_round"}],
    }
    functions = {"doc_to_text": "rounds", "process_results": "first_round"}
    _write(folder, "world_rounds", asked[:2], rounds, functions)


def _write(
    folder: Path,
    task: str,
    rows: list[dict[str, Any]],
    settings: dict[str, Any],
    functions: dict[str, str] | None = None,
) -> None:
    kinds = {"images": Sequence(Image()), "choices": Sequence(Value("string"))}
    features = Features({name: kinds.get(name, Value("string")) for name in rows[0]})
    file = folder / f"{task}.parquet"
    Dataset.from_list(rows, features).to_parquet(file)
    named = {"doc_to_visual": "pictures", **(functions or {})}
    plain = {
        "task": task,
        "dataset_path": "parquet",
        "dataset_kwargs": {"data_files": {"test": str(file)}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "question",
        "doc_to_target": "answer",
        **settings,
    }
    text = yaml.safe_dump({name: plain[name] for name in plain.keys() - named.keys()})
    text += "".join(f"{name}: !function functions.{own}\n" for name, own in named.items())
    (folder / f"{task}.yaml").write_text(text)
