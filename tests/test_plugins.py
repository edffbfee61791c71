"""Plugins: one file is enough, as strict as the package's own, and kept account of."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hf_finetune import finetune, load_run
from hf_finetune.cli import main
from hf_finetune.config import (
    RunConfig,
    config_from,
    config_schema,
    dump_config,
    load_config,
    parse_config,
)
from hf_finetune.errors import ConfigError, TrainingError, UserError
from hf_finetune.evaluation import GREATER_IS_BETTER
from hf_finetune.plugins import OTHER_SCORES
from hf_finetune.registry import kind_names
from hf_finetune.runs.run_dir import RunDir

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
NAMES = ("stripes", "small_resnet", "robust", "top2_accuracy")

DATA = """
from typing import Literal
from hf_finetune.data import DataOptions
class Options(DataOptions):
    name: Literal["mine"] = "mine"
    size: int = 3
def load(options):
    raise NotImplementedError
"""
METRIC = """
GREATER_IS_BETTER = False
def compute(logits, labels):
    return VALUE
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's folder, away from the checkout."""
    monkeypatch.chdir(tmp_path)
    modules = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - modules:
        if name.startswith("hf_finetune_plugin_"):
            del sys.modules[name]


@pytest.fixture
def stripes(folder: Path) -> Path:
    """The four examples and their configuration, cut short."""
    for name in NAMES:
        shutil.copy(EXAMPLES / f"{name}.py", folder)
    text = (EXAMPLES / "stripes.yaml").read_text().replace("./examples/", "./")
    short = "compute: {precision: fp32, device: cpu}\nrun: {pictures: false}\n"
    path = folder / "mine.yaml"
    path.write_text(text.replace("epochs: 5", "epochs: 2") + short)
    return path


def faults(text: str) -> str:
    with pytest.raises(ConfigError) as error:
        parse_config(text, "c.yaml")
    return str(error.value)


def of_files(*files: str) -> str:
    return f"plugins: [{', '.join(files)}]\ndata: {{name: mnist}}\nmodel: {{name: cnn}}\n"


def test_one_of_each_in_a_run(stripes: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["train", "--config", str(stripes), "--quiet"]) == 0
    run = RunDir(stripes.parent / "runs" / "mine" / "001")
    metrics = run.metrics
    assert metrics["metric_for_best_model"] == "top2_accuracy"
    assert set(metrics["test"]) == {*GREATER_IS_BETTER, *OTHER_SCORES, "top2_accuracy"}
    for split in ("validation", "test"):
        assert metrics[split]["accuracy"] <= metrics[split]["top2_accuracy"] <= 1
        assert metrics[split]["top2_accuracy"] > 0.5
    lines = (run.path / "history.jsonl").read_text().splitlines()
    heard = [json.loads(line) for line in lines if "validation/loss" in line]
    assert max(record["validation/top2_accuracy"] for record in heard) == pytest.approx(
        metrics["validation"]["top2_accuracy"]
    )
    hashes = {f"./{name}.py": (stripes.parent / f"{name}.py").read_bytes() for name in NAMES}
    assert run.status["plugins"] == {
        path: hashlib.sha256(content).hexdigest() for path, content in hashes.items()
    }
    assert json.loads((run.model / "config.json").read_text())["model_type"] == "resnet"
    assert main(["evaluate", str(run.path), "--format", "json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["top2_accuracy"] == metrics["test"]["top2_accuracy"]
    assert scores["loss"] == pytest.approx(metrics["test"]["loss"], rel=1e-6)


@pytest.mark.parametrize(
    ("name", "section"),
    [
        ("stripes", {"data": {"name": "stripes"}}),
        ("small_resnet", {"model": {"name": "small_resnet"}}),
        ("robust", {"loss": {"name": "robust"}}),
        ("top2_accuracy", {"train": {"metric_for_best_model": "top2_accuracy"}}),
    ],
)
def test_one_file_and_the_configuration_are_all_that_is_touched(
    name: str, section: dict[str, Any], folder: Path
):
    def package() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in (ROOT / "hf_finetune").rglob("*.py")}

    before = package()
    shutil.copy(EXAMPLES / f"{name}.py", folder)
    assert len((folder / f"{name}.py").read_text().splitlines()) <= 60
    tree = {"data": {"name": "mnist"}, "model": {"name": "cnn"}, **section}
    with pytest.raises(ConfigError, match=name):
        config_from(tree)
    config = config_from({**tree, "plugins": [f"{name}.py"]})
    (folder / "c.yaml").write_text(dump_config(config))
    assert load_config(folder / "c.yaml") == config
    assert {path.name for path in folder.rglob("*")} == {f"{name}.py", "c.yaml"}
    assert package() == before


def test_both_engines_agree_with_plugins(stripes: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["verify-engines", "--config", str(stripes), "--steps", "5"]) == 0
    assert "agree bit for bit: 5 steps" in capsys.readouterr().out


def test_a_section_of_a_plugin_is_strict(stripes: Path):
    text = stripes.read_text().replace("noise: 1.0", "noise: -1\n  nois: 2")
    message = faults(text.replace("q: 0.7", "q: high").replace("channels:", "chanels:"))
    line = next(n for n, row in enumerate(text.splitlines(), 1) if "noise: -1" in row)
    assert f"c.yaml:{line}: data.noise: must be a number of at least 0, got -1" in message
    assert f"c.yaml:{line + 1}: unknown key 'data.nois'. Did you mean 'data.noise'?" in message
    assert "loss.q: must be a number" in message
    assert "unknown key 'model.chanels'. Did you mean 'model.channels'?" in message


def test_names_of_plugins_are_advised(stripes: Path):
    text = stripes.read_text()
    assert "Did you mean 'stripes'?" in faults(text.replace("name: stripes", "name: stipes"))
    text = text.replace("model: top2_accuracy", "model: top2_acuracy")
    assert "unknown metric 'top2_acuracy'. Did you mean 'top2_accuracy'?" in faults(text)


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("gone.py", None, "gone.py: no such file, seen from the current folder"),
        ("mine.txt", "", "must be a Python file called like a name"),
        ("my-data.py", "", "must be a Python file called like a name"),
        ("mine.py", "x = 1\ndef load(:\n", "mine.py:2: not valid Python: invalid syntax"),
        ("mine.py", "# coding: klingon\n", "mine.py: not valid Python: unknown encoding"),
        ("mine.py", "x = 1\ny = x / 0\n", "mine.py:2: fails when it is loaded: ZeroDivisionError"),
        ("mine.py", "import no_such_thing\n", "mine.py:1: fails when it is loaded: ModuleNotFound"),
        ("mine.py", "import sys\nsys.exit(3)\n", "mine.py:2: fails when it is loaded: SystemExit"),
        ("mine.py", DATA.replace("def load", "def lod"), "the function 'load' is missing"),
        ("mine.py", "def load(options): ...\n", "the class 'Options' is missing"),
        ("mine.py", "class Options: ...\n", "Options must derive from DataOptions, ModelOptions"),
        ("yours.py", DATA, 'Options must have: name: Literal["yours"] = "yours"'),
        ("mine.py", DATA.replace(' = "mine"', ""), 'Options must have: name: Literal["mine"]'),
        ("cifar10.py", DATA.replace("mine", "cifar10"), "the name 'cifar10' is taken"),
        ("mine.py", METRIC.replace("GREATER", "LESS"), "GREATER_IS_BETTER (a bool) is missing"),
        ("mine.py", METRIC.replace("compute", "count"), "the function 'compute' is missing"),
        ("macro_f1.py", METRIC, "the name 'macro_f1' is taken"),
        ("confusion_matrix.py", METRIC, "the name 'confusion_matrix' is taken"),
    ],
)
def test_what_is_no_plugin_is_told(file: str, content: str | None, told: str, folder: Path):
    if content is not None:
        (folder / file).write_text(content)
    message = faults(of_files(file))
    assert message.startswith(f"c.yaml:1: plugins: {file}")
    assert told in message
    assert "\n" not in message


def test_every_faulty_plugin_is_told_and_doubles_are_refused(folder: Path):
    (folder / "mine.py").write_text(DATA)
    message = faults(of_files("a.py", "mine.py", "./mine.py", "b.py"))
    assert len(message.splitlines()) == 3
    assert "plugins: ./mine.py: the name 'mine' is mine.py's already" in message
    assert "must be a list" in faults("plugins: mine.py\ndata: {name: mine}\nmodel: {name: cnn}")


def test_configurations_keep_their_plugins_to_themselves(stripes: Path):
    schema = config_schema()
    first = load_config(stripes)
    assert [plugin.name for plugin in first.loaded_plugins] == list(NAMES)
    assert load_config(stripes) == first
    assert config_schema() == schema
    assert RunConfig.loaded_plugins == ()
    assert "stripes" not in kind_names("data")
    plain = {"data": {"name": "stripes"}, "model": {"name": "cnn"}}
    with pytest.raises(ConfigError, match="unknown name 'stripes'"):
        config_from(plain)
    plugin = stripes.parent / "stripes.py"
    plugin.write_text(plugin.read_text().replace("noise:", "grain:"))
    second = config_from(
        {**plain, "data": {"name": "stripes", "grain": 2}, "plugins": [plugin.name]}
    )
    assert second.data.model_dump()["grain"] == 2
    assert first.data.model_dump()["noise"] == 1.0


@pytest.mark.parametrize("value", ["float('nan')", "'much'", "None"])
def test_a_metric_that_is_no_number_stops_the_run(value: str, stripes: Path):
    (stripes.parent / "top2_accuracy.py").write_text(METRIC.replace("VALUE", value))
    with pytest.raises(TrainingError, match="validation: the metric top2_accuracy answered"):
        finetune(load_config(stripes), quiet=True)


@pytest.mark.parametrize(
    ("mean", "told"),
    [
        ("surprise.mean()", r"'robust' answers three examples with Tensor \[\]. Allowed: one "),
        ("surprise.mean().item()", r"'robust' answers three examples with float \[\]"),
        ("surprise[:, None]", r"'robust' answers three examples with Tensor \[3, 1\]"),
    ],
)
def test_a_loss_that_is_averaged_is_refused(mean: str, told: str, stripes: Path):
    plugin = stripes.parent / "robust.py"
    last = "return -(-self.q * surprise).expm1() / self.q"
    plugin.write_text(plugin.read_text().replace(last, f"return {mean}"))
    with pytest.raises(UserError, match=told):
        finetune(load_config(stripes), quiet=True)


def test_a_loss_with_one_weight_for_all_is_refused(stripes: Path):
    plugin = stripes.parent / "robust.py"
    last = "return torch.ones_like(labels, dtype=torch.float32)"
    plugin.write_text(plugin.read_text().replace(last, "return torch.ones(1)"))
    with pytest.raises(UserError, match=r"'robust'.weights answers .* with Tensor \[1\]"):
        finetune(load_config(stripes), quiet=True)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('{"id": [ids]}', '{"name": [ids]}', "data: the split train has no column id, only name"),
        (
            "    return build_image_dataset(",
            "    import datasets\n    row = {'label': [0], 'id': ['a'], 'image': [[[1]]]}\n"
            "    return datasets.Dataset.from_dict(row)\n    return build_image_dataset(",
            r"data: the column label of the split train is Value\('int64'\). Expected a datasets",
        ),
    ],
)
def test_a_data_set_without_its_columns_is_told(old: str, new: str, told: str, stripes: Path):
    plugin = stripes.parent / "stripes.py"
    plugin.write_text(plugin.read_text().replace(old, new))
    with pytest.raises(UserError, match=told):
        finetune(load_config(stripes), quiet=True)


class Stop:
    """Cuts a run off after its first checkpoint."""

    def on_step(self, step: int, loss: Any, model: Any) -> None:
        if step == 20:
            raise RuntimeError("cut off")

    def on_record(self, record: Any) -> None:
        pass


def test_a_resume_wants_the_same_plugins(stripes: Path):
    with pytest.raises(RuntimeError, match="cut off"):
        finetune(load_config(stripes), quiet=True, listeners=(Stop(),))
    path = stripes.parent / "runs" / "mine" / "001"
    plugin = stripes.parent / "robust.py"
    content = plugin.read_text()
    plugin.write_text(content + "\n# another line\n")
    with pytest.raises(UserError, match=r"the plugin ./robust.py has changed since the run began"):
        finetune(load_run(path).config, resume_from=path, quiet=True)
    plugin.write_text(content)
    result = finetune(load_run(path).config, resume_from=path, quiet=True)
    assert result.metrics["steps"] == 32
    assert result.run.status["status"] == "finished"
