"""lmms-eval on several processes, and through a service that wants to know who asks."""

from __future__ import annotations

import re
from pathlib import Path

from aligned_vq.shipped import BUNDLE, CHECKPOINT
from benchmarks.harness.processes import CloudProcess
from benchmarks.links.secured_links import secured_link
from tests.lmms.conftest import Evaluate


def test_two_processes_answer_as_one(evaluate: Evaluate) -> None:
    model_args = "checkpoint=reference,bundle=reference,point=low"
    alone = evaluate("world", model_args, "--limit=7")
    shared = evaluate("world", model_args, "--limit=7", processes=2)
    assert re.findall(r"Running on rank (\d)", alone.output) == ["0"]
    assert sorted(re.findall(r"Running on rank (\d)", shared.output)) == ["0", "1"]
    assert shared.answers("world") == alone.answers("world")
    assert len(shared.samples["world"]) == 7
    assert shared.scores["world"]["exact_match,none"] == alone.scores["world"]["exact_match,none"]
    assert len(alone.bytes_log) == 7  # one of the two asks three, and one of them again
    in_order = sorted(shared.bytes_log, key=lambda row: int(row["doc_id"]))
    assert in_order == alone.bytes_log


def test_a_token_goes_with_every_question(evaluate: Evaluate, tmp_path: Path) -> None:
    link = secured_link("token", tmp_path)
    told = ",".join(f"{name}={value}" for name, value in link.client.items())
    without = ",".join(
        f"{name}={value}" for name, value in link.client.items() if name != "token_file"
    )
    with CloudProcess(BUNDLE, CHECKPOINT, *link.service) as cloud:
        target = f"target={cloud.target},bundle=reference"
        refused = evaluate("world", f"{target},{without}", "--limit=2")
        answered = evaluate("world", f"{target},{told}", "--limit=2")
    assert refused.scores == {}
    assert "Unauthenticated" in refused.output
    assert len(answered.answers("world")) == 2
    assert all(answered.answers("world"))
    secret = (tmp_path / "token").read_text()
    assert secret not in answered.output + refused.output
