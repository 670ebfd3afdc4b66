"""What training leaves: a bundle that keeps its promises, and the checkpoint it belongs to."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from aligned_vq.calibration.codec import CutFeatures
from aligned_vq.codec.bundle import open_cloud_bundle, open_edge_bundle
from aligned_vq.errors import ConfigError, ManifestMismatch
from aligned_vq.training.export import (
    FITTING_IMAGES,
    TABLE_IMAGES,
    export_run,
    trained_codec,
)
from aligned_vq.training.run import TrainingRun
from cloud_server.config import CloudConfig
from cloud_server.model import load_cloud_model
from tests.training.tiny import PICTURES, tiny_config

MEAN_BYTES, MAX_BYTES = 15, 14
SETTINGS = {
    "align.steps": 3,
    "codec.points": {
        "mean": {"stages": [0, 1], "mean_bytes": MEAN_BYTES},
        "limited": {"stages": [0, 1], "max_bytes": MAX_BYTES},
        "full": {"stages": [0, 1]},
        "first": {"stages": [0]},
    },
}
TARGETS = ["suffix", "projector", "language_model"]


@pytest.fixture(scope="module")
def trained(
    llava_directory: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory
) -> TrainingRun:
    config = tiny_config(llava_directory, pictures, SETTINGS)
    run = TrainingRun.open(config, tmp_path_factory.mktemp("trained"))
    run.train()
    export_run(run, run.out / "bundle")
    return run


@pytest.fixture(scope="module")
def examples(trained: TrainingRun) -> CutFeatures:
    return trained.examples(PICTURES, last=True)


def body_sizes(bundle: Path, examples: CutFeatures, point: str) -> list[int]:
    codec = open_edge_bundle(bundle).codec
    pairs = zip(examples.features, examples.residual, strict=True)
    return [len(codec.compress(*pair, point=point).body) for pair in pairs]


def test_points_meet_their_mean_and_never_exceed_their_limit(
    trained: TrainingRun, examples: CutFeatures
) -> None:
    sizes = {
        point: body_sizes(trained.out / "bundle", examples, point)
        for point in ("mean", "limited", "full", "first")
    }
    # Rates are fitted on the last pictures; tables know the others by heart.
    fitted = PICTURES * FITTING_IMAGES // (TABLE_IMAGES + FITTING_IMAGES)
    means = {point: sum(own[-fitted:]) / fitted for point, own in sizes.items()}
    assert abs(means["mean"] / MEAN_BYTES - 1) < 0.1
    assert max(sizes["limited"]) <= MAX_BYTES
    assert means["first"] < means["mean"] < means["full"]
    assert means["first"] < means["limited"] <= MAX_BYTES
    assert max(sizes["full"]) > MAX_BYTES


def test_the_bundle_decodes_what_was_trained_and_serving_changes_nothing(
    trained: TrainingRun, examples: CutFeatures
) -> None:
    edge = open_edge_bundle(trained.out / "bundle").codec
    cloud = open_cloud_bundle(trained.out / "bundle").codec
    assert edge.quantizer is not None
    assert cloud.quantizer is not None
    edge.quantizer.train()
    cloud.quantizer.train()
    halves = (edge.quantizer, cloud.quantizer)
    before = [{n: t.clone() for n, t in half.state_dict().items()} for half in halves]
    model = trained.modules.model
    for features, residual in zip(examples.features, examples.residual, strict=True):
        payload = edge.compress(features, residual, point="full")
        found = cloud.decompress(payload)
        with torch.no_grad():
            assert model.quantizer is not None
            coded = model.quantizer(features[None], (0, 1))
            wanted = model.quantizer.reconstruct(model.quantizer.refine(coded.latents_hat))[0]
            unrefined = model.quantizer.reconstruct(coded.latents_hat)[0]
        assert torch.allclose(found[0], wanted, atol=1e-5)
        assert not torch.allclose(found[0], unrefined, atol=1e-5)
    for half, tensors in zip(halves, before, strict=True):
        for name, tensor in half.state_dict().items():
            assert tensor.is_meta or torch.equal(tensor, tensors[name])


def test_a_cloud_accepts_the_bundle(trained: TrainingRun, llava_directory: Path) -> None:
    config = CloudConfig(trained.out / "bundle", str(llava_directory), device="cpu")
    model = load_cloud_model(config)
    (cut,) = model.cuts.values()
    names = [point.name for point in cut.bundle.manifest.operating_points]
    assert names == ["mean", "limited", "full", "first"]


def test_a_run_that_has_not_begun_has_no_codec(
    llava_directory: Path, pictures: Path, tmp_path: Path
) -> None:
    run = TrainingRun.open(tiny_config(llava_directory, pictures), tmp_path)
    with pytest.raises(ConfigError, match="expected a run that has begun"):
        trained_codec(run)


@pytest.mark.parametrize("identity", [False, True])
def test_adapters_become_part_of_a_checkpoint_of_their_own(
    identity: bool, llava_directory: Path, pictures: Path, tmp_path: Path
) -> None:
    changes = {"task.steps": 2, "lora.rank": 2, "lora.targets": TARGETS, "lora.learning_rate": 0.1}
    if identity:
        changes |= {"codec.identity": True, "codec.link": "statistics", "codec.points": {}}
    run = TrainingRun.open(tiny_config(llava_directory, pictures, changes), tmp_path / "run")
    run.train()
    bundle = tmp_path / "run" / "bundle"
    manifest = export_run(run, bundle)
    assert export_run(run, bundle) == manifest  # adapters are not added twice
    served = load_cloud_model(CloudConfig(bundle, str(tmp_path / "run" / "checkpoint")))
    (cut,) = served.cuts.values()
    with pytest.raises(ManifestMismatch, match="expected the vision weights"):
        load_cloud_model(CloudConfig(bundle, str(llava_directory)))

    features, residual = run.examples(2)
    adapted = run.modules.model
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        hidden = adapted.suffix(features, residual)
        assert torch.allclose(cut.suffix(features, residual), hidden, atol=1e-4)
        images = adapted.llava.model.multi_modal_projector(hidden)
        own = served.llava.model.multi_modal_projector(hidden)
        assert torch.allclose(own, images, atol=1e-4)
        words = adapted.llava.model.language_model(input_ids=ids).last_hidden_state
        own = served.llava.model.language_model(input_ids=ids).last_hidden_state
        assert torch.allclose(own, words, atol=1e-4)
        plain = TrainingRun.open(tiny_config(llava_directory, pictures), tmp_path / "plain")
        assert not torch.allclose(plain.modules.model.suffix(features, residual), hidden, atol=0.01)
