"""Looking at data before training: numbers, duplicates, groups that are turned, mean images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hf_finetune.config import load_config
from hf_finetune.data import load_data
from hf_finetune.data.duplicates import find_duplicates, hash_image
from hf_finetune.data.inspection import describe_leaks, inspect_data
from hf_finetune.data.orientation import GroupAngles, compare_groups, find_axes
from hf_finetune.data.preparation import pixel_statistics
from hf_finetune.data_report import format_inspection, report_data

SAMPLE = "configs/corrupt_mnist_sample.yaml"
# Of the files of the corrupted MNIST, in degrees, counter-clockwise.
TRUE_ANGLES = {
    "test_images.pt": -12.41,
    "train_images_0.pt": -14.66,
    "train_images_1.pt": 47.39,
    "train_images_2.pt": 40.25,
    "train_images_3.pt": -44.66,
    "train_images_4.pt": -2.455,
    "train_images_5.pt": -3.58,
}


def bar(degrees: float, side: int = 28, width: int = 28) -> np.ndarray:
    """A light bar on dark ground, turned counter-clockwise from the horizontal: uint8 `[H, W]`."""
    image = Image.new("L", (width, side), 20)
    image.paste(230, (width // 2 - 9, side // 2 - 2, width // 2 + 9, side // 2 + 2))
    turned = image.rotate(degrees, Image.Resampling.BILINEAR, fillcolor=20)
    return np.asarray(turned)


def angle_of(image: np.ndarray) -> float:
    return float(np.degrees(np.angle(find_axes(image[None])[0])) / 2)


def axes_at(degrees: np.ndarray) -> np.ndarray:
    return np.exp(2j * np.radians(degrees))


@pytest.mark.parametrize("degrees", [-80, -30, 0, 12.5, 45, 89])
def test_the_axis_of_a_bar_is_its_angle(degrees: float):
    apart = angle_of(bar(degrees)) - degrees
    assert abs((apart + 90) % 180 - 90) < 1
    assert angle_of(255 - bar(degrees)) == pytest.approx(angle_of(bar(degrees)), abs=1e-6)
    floats = bar(degrees).astype(np.float32) / 255
    assert angle_of(floats) == pytest.approx(angle_of(bar(degrees)), abs=1e-3)


def test_the_axis_does_not_depend_on_the_place():
    square = bar(30)
    wide = np.full((28, 60), 20, np.uint8)
    wide[:, 32:] = square
    assert angle_of(wide) == pytest.approx(angle_of(square), abs=1e-6)


def test_what_has_no_axis_has_none():
    y, x = np.mgrid[-14:15, -14:15]
    disc = np.where(x**2 + y**2 < 80, 255, 0).astype(np.uint8)
    assert not find_axes(np.stack([disc, np.full_like(disc, 7), np.zeros_like(disc)])).any()


def compare(turns: list[float], spread: float, per_group: int, seed: int = 0) -> GroupAngles | None:
    """Groups whose class 1 lies at 70° plus the group's turn, and whose class 0 lies anyhow."""
    generator = np.random.default_rng(seed)
    groups = np.repeat(np.arange(len(turns)), 2 * per_group)
    labels = np.tile(np.repeat([0, 1], per_group), len(turns))
    aligned = 70 + np.asarray(turns)[groups] + generator.normal(0, spread, len(groups))
    degrees = np.where(labels == 1, aligned, generator.uniform(-90, 90, len(groups)))
    return compare_groups(axes_at(degrees), labels, groups, [f"g{i}" for i in range(len(turns))])


def test_turned_groups_are_measured_against_the_median_one():
    found = compare([-44, 0, 47, 3, -14], spread=12, per_group=400)
    assert found is not None
    assert (found.label, found.reference) == (1, "g1")
    assert found.exceeds_chance
    for name, degrees in {"g0": -44, "g1": 0, "g2": 47, "g3": 3, "g4": -14}.items():
        assert found.degrees[name] == pytest.approx(degrees, abs=3)
        assert found.standard_errors[name] == pytest.approx(12 / np.sqrt(400), rel=0.2)


def test_equal_groups_seldom_look_turned():
    """The p-values of equal groups are even: about 5 in 100 lie below 0.05."""
    found = [compare([0, 0, 0, 0], spread=15, per_group=60, seed=seed) for seed in range(300)]
    p_values = np.array([one.p_value for one in found if one is not None])
    assert len(p_values) == 300
    assert 0.02 < (p_values < 0.05).mean() < 0.1
    assert 0.4 < np.median(p_values) < 0.6
    assert not any(one.exceeds_chance for one in found if one is not None)


def test_no_angles_without_a_direction_or_without_images():
    assert compare([0, 40], spread=80, per_group=300) is None
    assert compare([0, 40], spread=5, per_group=10) is None
    assert compare([40], spread=5, per_group=100) is None


def test_numbers_are_those_of_the_images(make_config: Callable[..., Any]):
    data = load_data(make_config().data)
    found = inspect_data(data)
    for name, split in data.splits.items():
        images = np.asarray(split["image"], np.uint8)
        labels = np.asarray(split["label"])
        facts = found.pixels[name]
        assert (facts.sizes, facts.dtypes, facts.channels) == ({(28, 28)}, {"uint8"}, 1)
        assert facts.range == (images.min() / 255, images.max() / 255)
        assert facts.mean == pytest.approx(images.mean() / 255)
        assert facts.std == pytest.approx(images.std() / 255)
        assert found.class_counts[name] == tuple(np.bincount(labels, minlength=10))
    assert found.class_counts["train"] == data.class_counts
    assert found.pixels["train"].mean == pytest.approx(pixel_statistics(data.splits["train"])[0])


def test_mean_images_are_those_of_class_and_group(make_config: Callable[..., Any]):
    data = load_data(make_config().data)
    found = inspect_data(data)
    train = data.splits["train"]
    images, labels = np.asarray(train["image"]) / 255, np.asarray(train["label"])
    assert found.class_means is not None
    assert found.group_means is not None
    for label in range(10):
        expected = images[labels == label].mean(0)
        assert found.class_means[label, ..., 0] == pytest.approx(expected)
    names = list(found.groups[0].rows)
    assert names == ["test_images.pt", *(f"train_images_{i}.pt" for i in range(3))]
    test = data.splits["test"]
    ones = np.asarray(test["image"])[np.asarray(test["label"]) == 1] / 255
    assert found.group_means.shape == (4, 10, 28, 28, 1)
    assert found.group_means[0, 1, ..., 0] == pytest.approx(ones.mean(0))
    assert found.groups[0].rows["test_images.pt"] == {"test": 40}
    assert sum(map(len, found.groups[0].rows.values())) == 4  # each in one split


def plant_copies(root: Path) -> None:
    """Row 3 of a file again as its row 7, and as the first row of the test file with label 9."""
    images = torch.load(root / "train_images_0.pt", weights_only=True)
    images[7] = images[3]
    torch.save(images, root / "train_images_0.pt")
    test = torch.load(root / "test_images.pt", weights_only=True)
    labels = torch.load(root / "test_target.pt", weights_only=True)
    train = torch.load(root / "train_images_1.pt", weights_only=True)
    test[0], labels[0], test[1] = images[3], 9, train[1]
    torch.save(test, root / "test_images.pt")
    torch.save(labels, root / "test_target.pt")


def test_copies_are_found(make_config: Callable[..., Any], digits_root: Path):
    data = load_data(make_config().data)
    assert inspect_data(data).duplicates == ()
    plant_copies(digits_root)
    config = make_config()
    found = inspect_data(load_data(config.data))
    worst, other = found.duplicates
    assert set(worst.ids) == {"train_images_0.pt/3", "train_images_0.pt/7", "test_images.pt/0"}
    assert not worst.labels_agree
    assert worst.is_across_splits
    assert set(other.ids) == {"train_images_1.pt/1", "test_images.pt/1"}
    assert other.labels_agree
    text = format_inspection(found, "corrupt_mnist")
    assert "2 images occur more than once; 2 of them in several splits" in text
    assert "the labels of 1 disagree" in text
    assert "test_images.pt/0 (test, 9)" in text


def test_copies_within_one_split_come_last():
    hashes = [b"a", b"b", b"a", b"c", b"c"]
    found = find_duplicates(hashes, list("vwxyz"), ["train"] * 4 + ["test"], [1, 1, 1, 2, 2])
    assert [one.ids for one in found] == [("y", "z"), ("v", "x")]
    assert [one.is_across_splits for one in found] == [True, False]


def test_a_hash_tells_shape_and_type_apart():
    image = np.zeros((4, 6, 1), np.uint8)
    others = (image.reshape(6, 4, 1), image.reshape(4, 2, 3), image.view(bool), image + 1)
    assert len({hash_image(one) for one in (image, *others)}) == 5
    assert hash_image(image) == hash_image(image.copy())


def test_groups_that_leak_are_said_to(make_config: Callable[..., Any]):
    assert describe_leaks(load_data(make_config().data)) == "none: no file lies in two splits"
    data = load_data(make_config(data__split__group_by="none").data)
    assert describe_leaks(data) == "1 found, see the warnings"
    found = inspect_data(data)
    assert found.groups[0].rows["train_images_0.pt"].keys() == {"train", "validation"}
    assert "validation shares 3 of its file keys with train" in format_inspection(found, "x")


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A folder of colour images of many sizes and formats, three classes."""
    generator = np.random.default_rng(0)
    for number in range(30):
        label = ("cat", "dog", "emu")[number % 3]
        folder = tmp_path / "animals" / label
        folder.mkdir(parents=True, exist_ok=True)
        size = (int(generator.integers(20, 300)), int(generator.integers(20, 300)), 3)
        picture = Image.fromarray(generator.integers(0, 255, size).astype(np.uint8))
        picture.save(folder / f"{number}.{'png' if number % 2 else 'jpg'}")
    return tmp_path / "animals"


def test_files_of_any_size_are_looked_at(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from hf_finetune.config import config_from

    monkeypatch.setenv("HF_FINETUNE_CACHE", str(tmp_path / "cache"))
    config = config_from(
        {
            "name": "animals",
            "data": {"name": "image_folder", "root": str(photographs)},
            "model": {"name": "cnn", "image_size": 32},
        }
    )
    data = load_data(config.data)
    found = inspect_data(data)
    pixels = found.pixels["train"]
    assert pixels.channels == 3
    assert len(pixels.sizes) > 5
    assert pixels.mean == pytest.approx(pixel_statistics(data.splits["train"])[0])
    assert pixels.std == pytest.approx(pixel_statistics(data.splits["train"])[1])
    assert found.class_means is None
    assert found.groups == ()
    text = report_data(config, tmp_path / "look")
    assert "sizes from" in text
    assert "colour, uint8" in text
    assert [path.name for path in (tmp_path / "look").iterdir()] == ["examples.png"]


def test_the_sample_s_files_are_seen_to_be_turned():
    """The true angles, up to the slant of the people who wrote the digits and 700 rows a file."""
    found = inspect_data(load_data(load_config(SAMPLE).data))
    check_angles(found.groups[0].angles, tolerance=9)
    text = format_inspection(found, "corrupt_mnist")
    assert "turned against each other by more than chance" in text
    assert "strokes of class 1" in text


@pytest.mark.slow
def test_the_full_files_are_seen_to_be_turned(shared_data: Path):
    root = f"data.root={shared_data / 'corruptmnist'}"
    found = inspect_data(load_data(load_config(SAMPLE, [root]).data))
    check_angles(found.groups[0].angles, tolerance=6)


def check_angles(found: GroupAngles | None, tolerance: float) -> None:
    assert found is not None
    assert found.label == 1
    assert found.degrees.keys() == TRUE_ANGLES.keys()
    for name, degrees in found.degrees.items():
        expected = TRUE_ANGLES[name] - TRUE_ANGLES[found.reference]
        assert degrees == pytest.approx(expected, abs=tolerance)


def test_groups_that_are_not_turned_are_not_said_to_be(
    make_config: Callable[..., Any], digits_root: Path
):
    """Bars that lean alike in every file: the chance differences of the noise are not printed."""
    generator = np.random.default_rng(0)
    for name, rows in (("train_0", 300), ("train_1", 300), ("train_2", 300), ("test", 300)):
        part, _, number = name.partition("_")
        leans = generator.normal(60, 10, rows)
        images = np.stack([bar(lean) for lean in leans]).astype(np.float32) / np.float32(255)
        tail = f"_{number}.pt" if number else ".pt"
        torch.save(torch.from_numpy(images), digits_root / f"{part}_images{tail}")
        torch.save(torch.arange(rows) % 10, digits_root / f"{part}_target{tail}")
    found = inspect_data(load_data(make_config().data))
    assert min(counts.get("train", 300) for counts in found.groups[0].rows.values()) == 300
    assert found.groups[0].angles is None
    assert "turned" not in format_inspection(found, "corrupt_mnist")
