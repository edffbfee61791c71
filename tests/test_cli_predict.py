"""`hf-finetune predict`: Monte Carlo dropout, files a batch at a time, drawings dark on light."""

from __future__ import annotations

import csv
import io
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from small_checkpoints import write_checkpoint

from hf_finetune import inference
from hf_finetune.cli import main
from hf_finetune.config import dump_config
from hf_finetune.dropout_answers import sample_files
from hf_finetune.errors import DataError
from hf_finetune.inference import predict_files
from hf_finetune.models import save_classifier

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = "configs/corrupt_mnist_sample.yaml"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run with dropout on part of the sample; it need not know much."""
    folder = tmp_path_factory.mktemp("trained")
    os.chdir(ROOT)
    settings = ["data.max_train_examples=300", "model.channels=[8]", "model.dropout=0.5"]
    settings += [f"run.directory={folder}", "run.pictures=false", "compute.precision=fp32"]
    assert main(["train", "--config", SAMPLE, "--quiet", "--epochs", "2", *settings]) == 0
    return str(folder / "corrupt_mnist_sample/001")


@pytest.fixture
def digits(tmp_path: Path) -> list[str]:
    """Three digits as PNG files."""
    images = torch.load(ROOT / "samples/corruptmnist/test_images.pt", weights_only=True)[:3]
    files = [str(tmp_path / f"{number}.png") for number in range(3)]
    for image, file in zip(images, files, strict=True):
        Image.fromarray((image.numpy() * 255).astype(np.uint8)).save(file)
    return files


def test_samples_are_counted_by_class(
    trained: str, digits: list[str], capsys: pytest.CaptureFixture[str]
):
    words = ["predict", trained, *digits, "--mc-dropout", "40", "--format", "csv"]
    assert main(words) == 0
    first = capsys.readouterr().out
    rows = list(csv.DictReader(first.splitlines()))
    assert [*dict.fromkeys(row["file"] for row in rows)] == digits
    for file in digits:
        own = [row for row in rows if row["file"] == file]
        shares = [float(row["share"]) for row in own]
        assert sum(shares) == pytest.approx(1, abs=1e-3)
        assert shares == sorted(shares, reverse=True)
        assert all(share * 40 == pytest.approx(round(share * 40), abs=1e-2) for share in shares)
        assert sum(float(row["mean_probability"]) for row in own) <= 1.001
        (entropy,) = {float(row["predictive_entropy_nats"]) for row in own}
        (information,) = {float(row["mutual_information_nats"]) for row in own}
        assert 0 < information < entropy <= np.log(10)
    assert main(words) == 0
    assert capsys.readouterr().out == first
    assert main([*words, "--seed", "1"]) == 0
    assert capsys.readouterr().out != first


def test_the_table_has_a_part_for_each_file(
    trained: str, digits: list[str], capsys: pytest.CaptureFixture[str]
):
    assert main(["predict", trained, *digits, "--mc-dropout", "10"]) == 0
    parts = capsys.readouterr().out.split("\n\n")
    answers = sample_files(trained, digits, num_samples=10)
    assert len(parts) == 3
    for part, answer in zip(parts, answers, strict=True):
        lines = part.strip().splitlines()
        assert lines[0].startswith(f"{answer.file}: predictive entropy ")
        assert f"mutual information {answer.mutual_information:.4f} nats" in lines[0]
        assert lines[1].split() == ["label", "share", "mean", "probability"]
        label, share, probability = answer.classes[0]
        assert lines[2].split() == [label, f"{share:.4f}", f"{probability:.4f}"]


def test_the_histogram_shows_one_image(
    trained: str, digits: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    picture = tmp_path / "histogram.png"
    words = ["predict", trained, digits[0], "--mc-dropout", "30", "--histogram", str(picture)]
    assert main(words) == 0
    with Image.open(picture) as image:
        blue = np.abs(np.asarray(image.convert("RGB")).astype(int) - (0, 0x72, 0xB2)).max(-1) < 4
    (answer,) = sample_files(trained, digits[:1], num_samples=30)
    bars = blue.sum(1)
    widths = {int(width) for width in bars[bars > 0]}
    longest, votes = max(widths), [round(30 * share) for _, share, _ in answer.classes]
    expected = {round(longest * count / max(votes)) for count in votes}
    assert all(min(abs(width - one) for one in expected) <= 2 for width in widths)
    assert len(widths) >= len(expected)
    before = Path(digits[1]).read_bytes()
    for wrong, message in (
        ([digits[0], "--mc-dropout", "5", "--histogram", digits[1]], "there already"),
        ([*digits, "--mc-dropout", "5", "--histogram", "x.png"], "shows one file, got 3"),
        ([digits[0], "--mc-dropout", "5", "--histogram", "x.pdf"], "Call it x.png"),
        ([digits[0], "--histogram", "x.png"], "--mc-dropout 100"),
        ([digits[0], "--seed", "0"], "--seed: belongs to samples"),
        ([digits[0], "--top", "2", "--mc-dropout", "5"], "Leave out --top"),
        ([digits[0], "--mc-dropout", "0"], "--mc-dropout: must be at least 1"),
    ):
        capsys.readouterr()
        assert main(["predict", trained, *wrong]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
    assert Path(digits[1]).read_bytes() == before


def test_a_model_without_dropout_is_one_line(
    trained: str, digits: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    from hf_finetune.models import load_classifier, save_classifier

    classifier = load_classifier(Path(trained) / "model")
    classifier.model.config.dropout = 0.0
    save_classifier(classifier, tmp_path / "model")
    assert main(["predict", str(tmp_path / "model"), digits[0], "--mc-dropout", "5"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("model.dropout: this model has no dropout")


def test_files_are_read_a_batch_at_a_time(
    trained: str, digits: list[str], monkeypatch: pytest.MonkeyPatch
):
    whole = predict_files(trained, digits)
    monkeypatch.setattr(inference, "_BATCH_IMAGES", 2)
    for one, other in zip(predict_files(trained, digits), whole, strict=True):
        assert (one.file, one.classes[0][0]) == (other.file, other.classes[0][0])
        assert one.classes[0][1] == pytest.approx(other.classes[0][1], abs=1e-6)
    Path(digits[2]).write_text("no picture")
    classifier, background = inference.load_for_files(trained, digits, None, ())
    batches = inference.read_batches(classifier, digits, background)
    part, batch = next(batches)  # the third file has not been touched
    assert (list(part), batch["pixel_values"].shape) == (digits[:2], (2, 1, 28, 28))
    with pytest.raises(DataError, match=r"2\.png: it is no image of"):
        next(batches)


def every_kind(folder: Path) -> list[str]:
    """A folder for each of two classes, of pictures of every kind that loses something easily."""
    generator = np.random.default_rng(0)
    for number, name in enumerate(("cat", "dog")):
        (folder / name).mkdir(parents=True)
        colors = generator.integers(0, 256, (40, 30, 4), dtype=np.uint8)
        turned = Image.Exif()
        turned[0x112] = 6
        for file, picture, settings in (
            ("rgb.png", Image.fromarray(colors[..., :3]), {}),
            ("rgba.png", Image.fromarray(colors), {}),
            ("deep.png", Image.fromarray(colors[..., 0].astype(np.uint16) * 257 + number), {}),
            ("float.tif", Image.fromarray(colors[..., 1].astype(np.float32) / 255), {}),
            ("cmyk.jpg", Image.fromarray(colors, "CMYK"), {}),
            ("turned.jpg", Image.fromarray(colors[..., :3]), {"exif": turned}),
            ("palette.png", Image.fromarray(colors[..., :3]).quantize(9), {"transparency": 2}),
            ("row.png", Image.fromarray(colors[:1, :, :3]), {}),
        ):
            picture.save(folder / name / file, **settings)
    return [str(path) for path in sorted(folder.glob("*/*"))]


@pytest.mark.parametrize("color", ["auto", "grey"])
@pytest.mark.parametrize("kind", ["cnn", "deit"])
def test_files_come_to_the_model_as_in_training(
    kind: str, color: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from hf_finetune.assembly import assemble
    from hf_finetune.config import config_from

    monkeypatch.setenv("HF_FINETUNE_CACHE", str(tmp_path / "cache"))
    model: dict[str, Any] = {"name": "cnn", "image_size": 20, "channels": [4]}
    if kind == "deit":
        write_checkpoint(tmp_path / "deit", "deit")
        model = {"name": "auto_image", "checkpoint": str(tmp_path / "deit")}
    files = every_kind(tmp_path / "pets")
    data = {"name": "image_folder", "root": str(tmp_path / "pets"), "color": color}
    bench = assemble(config_from({"data": data, "model": model}))
    trained_on = {}
    for split, rows in bench.data.splits.items():
        pixels = torch.cat([batch["pixel_values"] for batch in bench.make_loader(split)])
        trained_on |= zip([f"{tmp_path}/pets/{name}" for name in rows["id"]], pixels, strict=True)
    save_classifier(bench.classifier, tmp_path / "model")
    (tmp_path / "x.yaml").write_text(dump_config(bench.config))
    words = (str(tmp_path / "model"), files, str(tmp_path / "x.yaml"), ())
    classifier, reading = inference.load_for_files(*words)
    ((part, batch),) = inference.read_batches(classifier, files, reading)
    level = 1 / (255 * min(torch.tensor(classifier.processor.image_std).flatten().tolist()))
    for file, pixels in zip(part, batch["pixel_values"], strict=True):
        assert (pixels - trained_on[file]).abs().max() < 1.01 * level, file


def test_transparent_pictures_lie_on_what_the_model_is_used_to(
    trained: str, digits: list[str], tmp_path: Path
):
    with Image.open(digits[0]) as digit:
        Image.merge("LA", (Image.new("L", digit.size, 255), digit)).save(tmp_path / "clear.png")
    plain, clear = predict_files(trained, [digits[0], str(tmp_path / "clear.png")])
    assert clear.classes[0] == plain.classes[0]  # white strokes, on black
    write_checkpoint(tmp_path / "deit", "deit")
    Image.new("LA", (9, 9), (0, 0)).save(tmp_path / "empty.png")
    Image.new("L", (9, 9), 255).save(tmp_path / "white.png")
    files = [str(tmp_path / name) for name in ("empty.png", "white.png")]
    classifier, reading = inference.load_for_files(str(tmp_path / "deit"), files, None, ())
    ((_, batch),) = inference.read_batches(classifier, files, reading)
    assert torch.equal(*batch["pixel_values"])  # a photograph's paper


def test_a_name_that_is_no_utf8_is_printed(
    trained: str, digits: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")
    Path(file).write_bytes(Path(digits[0]).read_bytes())
    drawn = ["--mc-dropout", "2"]
    for extra in ([], ["--format", "csv"], drawn, [*drawn, "--format", "csv"]):
        terminal = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")  # as strict as a pipe is
        monkeypatch.setattr(sys, "stdout", terminal)
        assert main(["predict", trained, file, *extra]) == 0
        terminal.seek(0)
        assert r"caf\udce9.png" in terminal.read()


def test_dark_on_light_is_said_in_one_line(
    trained: str, digits: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["predict", trained, *digits]) == 0
    assert capsys.readouterr().err == ""
    inverted = []
    for number, file in enumerate(digits[:2]):
        inverted.append(str(tmp_path / f"paper {number}.png"))
        with Image.open(file) as image:
            ImageOps.invert(image).convert(("L", "RGB")[number]).save(inverted[-1])
    for extra in ([], ["--mc-dropout", "5"]):
        assert main(["predict", trained, digits[0], *inverted, *extra]) == 0
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("warning: dark on light")
        assert f"{inverted[0]} and 1 more" in line
    assert [answer.is_inverted for answer in predict_files(trained, [*inverted, digits[0]])] == [
        True,
        True,
        False,
    ]


def test_training_on_bright_images_makes_no_such_warning(trained: str, digits: list[str]):
    classifier, _ = inference.load_for_files(trained, digits, None, ())
    white = torch.ones(1, 1, 28, 28)
    processor = classifier.processor
    std = processor.image_std[0]

    def is_inverted(pixels: torch.Tensor) -> bool:
        (found,) = inference.find_inverted({"pixel_values": pixels}, processor)
        return found

    assert is_inverted((white - processor.image_mean[0]) / std)
    processor.image_mean = [0.5]
    assert not is_inverted((white - 0.5) / std)
    processor.do_normalize = False
    assert not is_inverted(white)
