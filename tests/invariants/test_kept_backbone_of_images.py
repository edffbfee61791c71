"""Training on what a frozen backbone made of images: as without in every promise, or off."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file
from small_checkpoints import IMAGE, make_classifier_network, write_checkpoint
from small_jobs import Interrupt, Weights

from hf_finetune import keeping
from hf_finetune.assembly import Workbench, assemble, assemble_with
from hf_finetune.cli import main
from hf_finetune.config import dump_config
from hf_finetune.data import load_data
from hf_finetune.engines.batches import BatchView
from hf_finetune.engines.step import model_inputs
from hf_finetune.features import kept_images
from hf_finetune.models import load_classifier, save_classifier
from hf_finetune.models.frozen_backbone import FrozenBackbone
from hf_finetune.registry import kind

QUICK = ("deit", "resnet")
ARCHITECTURES = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in IMAGE
]
# Were any of it alive in the frozen part, no two answers would be alike.
DROPS = {
    "hidden_dropout_prob": 0.5,
    "attention_probs_dropout_prob": 0.5,
    "hidden_dropout": 0.5,
    "drop_path_rate": 0.5,
}
Build = Callable[..., Workbench]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_FINETUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "frozen_parts"


@pytest.fixture
def configure(make_config: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    """A configuration of such a model with its backbone frozen; dotted settings laid over it."""

    def one(name: str = "deit", **settings: Any) -> Any:
        folder = tmp_path / f"{name} checkpoint"
        if not folder.exists():
            network = make_classifier_network(name, 10)
            known = DROPS.keys() & network.config.to_dict().keys()
            for key in known:
                setattr(network.config, key, DROPS[key])
            write_checkpoint(folder, name, network)
        model = {"name": "auto_image", "checkpoint": str(folder), "freeze": "backbone"}
        settings = {"train__num_train_epochs": 2, "data__max_train_examples": 64, **settings}
        return make_config(**{"model": model, "train__logging_steps": 1, **settings})

    return one


@pytest.fixture
def build(configure: Callable[..., Any]) -> Build:
    return lambda *name, **settings: assemble(configure(*name, **settings))


def is_kept(bench: Workbench) -> bool:
    return bench.keeping is not None and bench.keeping.frozen_part is not None


def collate(bench: Workbench, split: str, rows: list[int]) -> dict[str, Any]:
    """The model batch that the run's loader would make of some rows."""
    loader = bench.make_loader(split, training=split == "train")
    raw = BatchView(bench.data.splits[split]).__getitems__([(0, row) for row in rows])
    return loader.collate_fn(raw)  # type: ignore[arg-type]


def answer(bench: Workbench, batch: dict[str, Any]) -> torch.Tensor:
    half = bench.compute.precision == "bf16"
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=half):
        return bench.classifier.model.eval()(**model_inputs(batch)).logits


def train(bench: Workbench, engine: str, heard: Any, **how: Any) -> None:
    kind("engines", engine).fit(bench.make_job(listeners=(heard,), **how))


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_images_are_answered_in_the_same_bits(name: str, precision: str, build: Build):
    """Among the same images; among others, a product of matrices may end in another last bit."""
    how = {"compute__precision": precision}
    kept, plain = build(name, **how), build(name, features__keep_frozen="off", **how)
    assert is_kept(kept)
    assert plain.keeping is None
    for bench in (kept, plain):
        bench.classifier.model.train()  # as it is between epochs
    size = kept_images._ROWS_AT_A_TIME
    ready, ordinary = (collate(bench, "train", list(range(size))) for bench in (kept, plain))
    assert kept.classifier.model.training
    assert ready["pixel_values"].dim() == 2
    assert ready.keys() == ordinary.keys()
    assert torch.equal(ready["labels"], ordinary["labels"])
    assert torch.equal(ready["index"], ordinary["index"])
    assert torch.equal(answer(kept, ready), answer(plain, ordinary))
    rows = [40, 3, 17]
    ready, ordinary = (collate(bench, "train", rows) for bench in (kept, plain))
    close = {"atol": 1e-5} if precision == "fp32" else {"atol": 0.02, "rtol": 0.02}
    assert torch.allclose(answer(kept, ready), answer(plain, ordinary), **close)
    assert torch.equal(answer(kept, ordinary), answer(plain, ordinary))  # images go in, too


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_both_engines_end_in_the_same_bits(name: str, build: Build):
    heard = {engine: Weights() for engine in ("loop", "trainer")}
    for engine, weights in heard.items():
        bench = build(name, train__gradient_accumulation_steps=2)
        assert is_kept(bench)
        before = {k: v.clone() for k, v in bench.classifier.model.state_dict().items()}
        train(bench, engine, weights)
    loop, trainer = heard.values()
    assert loop.losses == trainer.losses
    assert len(loop.losses) == 4
    for ours, theirs in zip(loop.states, trainer.states, strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    last = loop.states[-1]
    moved = {name for name, value in before.items() if not torch.equal(last[name], value)}
    assert moved == {name for name in before if name.startswith("classifier.")}


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_trains_as_without(name: str, precision: str, build: Build):
    heard = {keep: Weights() for keep in ("auto", "off")}
    for keep, weights in heard.items():
        bench = build(name, features__keep_frozen=keep, compute__precision=precision)
        assert is_kept(bench) == (keep == "auto")
        train(bench, "loop", weights)
    kept, plain = heard.values()
    assert len(kept.losses) == 8
    assert kept.losses == pytest.approx(plain.losses, rel=1e-5 if precision == "fp32" else 0.01)


def test_a_resumed_run_ends_in_the_same_bits(build: Build, tmp_path: Path):
    how = {"train__eval_strategy": "steps", "train__eval_steps": 3}
    whole, rest = Weights(), Weights()
    train(build(**how), "loop", whole, checkpoints=tmp_path / "whole")
    folder = tmp_path / "cut off"
    with pytest.raises(KeyboardInterrupt):
        train(build(**how), "loop", Interrupt(5), checkpoints=folder)
    train(build(**how), "trainer", rest, checkpoints=folder, resume_from=folder / "step-3")
    assert whole.losses[3:] == rest.losses
    assert all(torch.equal(rest.states[-1][n], v) for n, v in whole.states[-1].items())
    # What lies on disk is the ordinary, whole model.
    stored = load_file(folder / "step-8" / "model.safetensors")
    assert stored.keys() == load_classifier(tmp_path / "deit checkpoint").model.state_dict().keys()


def test_the_saved_model_is_an_ordinary_one(
    build: Build, configure: Callable[..., Any], tmp_path: Path
):
    bench = build()
    train(bench, "loop", Weights())
    save_classifier(bench.classifier, tmp_path / "model")
    loaded = load_classifier(tmp_path / "model")
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        ours, theirs = (
            one.model.eval()(pixel_values=images).logits for one in (bench.classifier, loaded)
        )
    assert torch.equal(ours, theirs)
    # Whoever scores it later by the run's configuration computes as the run did.
    later = assemble_with(configure(), load_data(configure().data), loaded)
    assert is_kept(later)
    accelerator = bench.compute.make_accelerator()
    scores = [
        one.make_predictor("test").predict(one.classifier.model, accelerator).logits
        for one in (bench, later)
    ]
    assert (scores[0] == scores[1]).all()


OFF: dict[str, dict[str, Any]] = {
    "asked": {"features__keep_frozen": "off"},
    "trained": {"model__freeze": "none"},
    "partly": {"model__freeze": {"first_layers": 2}},
    "thaws": {"model__unfreeze_at_epoch": 1},
    "moved": {"features__augmentation": {"shift_fraction": 0.1}},
    "mixed": {"features__augmentation": {"mixup_alpha": 0.2}},
    "once": {"train__num_train_epochs": 1},
    "few steps": {"train__max_steps": 4},
}
WHY = {
    "moved": "backbone, computed in every step: the augmentation changes the images",
    "mixed": "the augmentation changes the images",
    "once": "sees each image only once",
    "few steps": "only once",
}


@pytest.mark.parametrize("case", OFF)
def test_it_is_off_where_it_must_be(case: str, build: Build, cache: Path):
    bench = build(**OFF[case])
    assert not is_kept(bench)
    told = bench.keeping.describe() if bench.keeping is not None else ""
    assert WHY.get(case, "") in told
    assert (case in WHY) == bool(told)
    assert next(iter(bench.make_loader("train", training=True)))["pixel_values"].dim() == 4
    assert not cache.exists()


def test_adapters_sit_in_the_backbone(build: Build):
    pytest.importorskip("peft")
    assert build(model__freeze="none", model__lora={"rank": 2}).keeping is None


def test_a_small_disk_is_left_alone(build: Build, cache: Path, monkeypatch: pytest.MonkeyPatch):
    usage = keeping.shutil.disk_usage(cache.parents[1])
    monkeypatch.setattr(keeping.shutil, "disk_usage", lambda _: usage._replace(free=5000))
    bench = build()
    assert not is_kept(bench)
    assert bench.keeping is not None
    assert "GB left in" in bench.keeping.describe()


def test_what_follows_the_head_is_not_left_out(build: Build, monkeypatch: pytest.MonkeyPatch):
    """A network whose answer is more than its last layer's: of a plugin, or yet to come."""
    whole = transformers.DeiTForImageClassification.forward

    def forward(self: Any, pixel_values: torch.Tensor, **named: Any) -> Any:
        answer = whole(self, pixel_values=pixel_values, **named)
        answer.logits = 3 * answer.logits
        return answer

    monkeypatch.setattr(transformers.DeiTForImageClassification, "forward", forward)
    bench = build()
    assert not is_kept(bench)
    assert bench.keeping is not None
    assert "that of DeiTForImageClassification can't be kept" in bench.keeping.describe()


def test_other_networks_have_no_frozen_backbone(make_config: Callable[..., Any]):
    assert assemble(make_config()).keeping is None


def test_nothing_is_computed_twice(build: Build, cache: Path, monkeypatch: pytest.MonkeyPatch):
    first = collate(build(), "train", [3, 0, 1])
    assert len(list(cache.iterdir())) == 1
    bench = build()

    def compute(*_: Any) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(FrozenBackbone, "compute", compute)
    again = collate(bench, "train", [3, 0, 1])
    assert all(torch.equal(again[name], first[name]) for name in first)


def test_what_decides_about_features_names_them(build: Build, cache: Path, digits_root: Path):
    def count(**settings: Any) -> int:
        build(**settings).make_loader("train", training=True)
        return len(list(cache.iterdir()))

    assert count() == 1
    assert count(seed=5, train__learning_rate=1e-4, data__split={"seed": 0}) == 1
    assert count(compute__precision="bf16") == 2
    assert count(model__processor={"do_normalize": False}) == 3
    assert count(model__config={"num_attention_heads": 1}) == 4
    assert count(model__attention="eager") == 5
    assert count(compute__memory_format="channels_last") == 6
    bench = build()
    with torch.no_grad():
        bench.classifier.model.classifier.weight += 1  # not of the backbone
    bench.make_loader("train", training=True)
    assert len(list(cache.iterdir())) == 6
    with torch.no_grad():
        bench.classifier.model.deit.layers[1].mlp.fc1.weight[0, 0] += 1e-6
    bench.make_loader("train", training=True)
    assert len(list(cache.iterdir())) == 7
    images = torch.load(digits_root / "train_images_0.pt")
    images[:, 3, 3] += 0.5
    torch.save(images, digits_root / "train_images_0.pt")
    assert count() == 8


def test_files_are_known_by_what_is_in_them(build: Build, cache: Path, tmp_path: Path):
    """With the scan's digests, and without, as other sources of files may come."""
    random = np.random.default_rng(0)
    for number in range(24):
        folder = tmp_path / "pictures" / str(number % 2)
        folder.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 255, (20 + number % 3, 24, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    data = {"name": "image_folder", "root": str(tmp_path / "pictures")}
    names = []
    for known in (True, False, False):
        bench = build(data=data, data__max_train_examples=None)
        assert is_kept(bench)
        if not known:
            split = bench.data.splits["train"].remove_columns("measured")
            bench.data.splits["train"] = split
        batch = collate(bench, "train", [0, 5])
        plain = build(data=data, data__max_train_examples=None, features__keep_frozen="off")
        assert torch.allclose(
            answer(bench, batch), answer(plain, collate(plain, "train", [0, 5])), atol=1e-5
        )
        assert bench.keeping is not None
        names.append(bench.keeping.kept["train"].folder.name)
        if len(names) == 2:
            path = Path(bench.data.splits["train"][0]["image"]["path"])
            Image.open(path).rotate(180).save(path)
    assert len(set(names)) == 3
    folders = set()
    for background in ("white", "black"):
        how = {**data, "background": background}
        bench = build(data=how, data__max_train_examples=None)
        bench.make_loader("train", training=True)
        assert bench.keeping is not None
        folders.add(bench.keeping.kept["train"].folder.name)
    assert len(folders) == 2


def test_the_command_line_says_what_is_kept(
    configure: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "deit.yaml"
    path.write_text(dump_config(configure()))
    assert main(["train", "--config", str(path)]) == 0
    run = tmp_path / "runs" / "small" / "001"
    told = json.loads((run / "environment.json").read_text())
    kept = "backbone, computed once an image and kept: train 0.0 MB, validation 0.0 MB of float32"
    assert f"{kept} in {tmp_path / 'cache' / 'frozen_parts'}" in json.dumps(told)
    assert "computed once an image and kept" in " ".join(capsys.readouterr().out.split())
    metrics = json.loads((run / "metrics.json").read_text())
    assert main(["evaluate", str(run), "--format", "json"]) == 0
    scored = json.loads(capsys.readouterr().out)
    assert scored["accuracy"] == metrics["test"]["accuracy"]
