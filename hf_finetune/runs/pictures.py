"""Pictures outside a run directory: of data before training, and of one image's answers.

Place: the verbs `inspect` and `predict` write them where the user says, beside the user's own
files; the pictures of a run are in `plots`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from hf_finetune.errors import UserError
from hf_finetune.runs.plots import BLUE, DOTS_PER_INCH, GREY, save_figure, shorten

MOST_BARS = 20
_MARK = "hf-finetune"
_GAP = 0.06  # between mean images, as a part of their side


def check_own(path: Path) -> None:
    """Makes sure that a picture may be written here.

    Raises:
        UserError: The file is there and is no picture of this toolkit, or isn't called `.png`.
    """
    from PIL import Image

    if path.suffix.lower() != ".png":
        raise UserError(f"{path}: pictures are PNG files. Call it {path.stem or 'picture'}.png")
    if not path.exists():
        return
    try:
        with Image.open(path) as image:
            is_own = image.info.get("Software") == _MARK
    except Exception:  # Pillow's readers raise whatever a broken file leads them to
        is_own = False
    if not is_own:
        raise UserError(
            f"{path}: this file is there already, and hf-finetune didn't draw it. "
            "Name another place for the pictures."
        )


def write_picture(path: Path, draw: Callable[[Path], None]) -> None:
    """Draws a picture whole or not at all, and marks it as this toolkit's own.

    Args:
        path: The PNG file; a picture that an earlier call drew is replaced.
        draw: Draws it to the path that it is given.

    Raises:
        UserError: The file is somebody else's, or can't be written.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    check_own(path)
    unfinished = path.with_name(f".{path.name}.unfinished")
    mark = PngInfo()
    mark.add_text("Software", _MARK)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draw(unfinished)
        with Image.open(unfinished) as image:
            opaque = image.convert("RGB")
        opaque.save(unfinished, format="PNG", pnginfo=mark, optimize=True)
        unfinished.replace(path)
    except OSError as error:
        raise UserError(
            f"{path}: it can't be written ({error.strerror}). Name another place for the pictures."
        ) from error


def draw_mean_images(
    means: np.ndarray,
    row_names: Sequence[str],
    column_names: Sequence[str],
    path: Path,
    title: str,
) -> None:
    """Draws a table of mean images.

    Args:
        means: float `[rows, columns, H, W, 1 or 3]`, 0…1; the least and greatest become black and
            white. A cell of NaN stays empty.
        row_names: Stand on the left.
        column_names: Stand above.
        path: The PNG file to write.
        title: Stands above the table.
    """
    from matplotlib.figure import Figure

    rows, columns, height, width, _ = means.shape
    low, high = np.nanmin(means), np.nanmax(means)
    cells = (means - low) / max(high - low, 1e-12)
    gap_y, gap_x = (max(1, round(_GAP * side)) for side in (height, width))
    step_y, step_x = height + gap_y, width + gap_x
    sheet = np.ones((rows * step_y - gap_y, columns * step_x - gap_x, means.shape[-1]))
    for row, column in np.ndindex(rows, columns):
        top, left = row * step_y, column * step_x
        sheet[top : top + height, left : left + width] = np.nan_to_num(cells[row, column], nan=1)
    figure = Figure(
        figsize=(0.8 * columns + 2.2, 0.8 * rows * height / width + 0.9),
        dpi=DOTS_PER_INCH,
        layout="compressed",
    )
    axes = figure.add_subplot()
    axes.imshow(sheet, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_yticks(
        np.arange(rows) * step_y + (height - 1) / 2,
        [shorten(name, 40) for name in row_names],
        fontsize=9.5,
        parse_math=False,
    )
    axes.set_xticks(
        np.arange(columns) * step_x + (width - 1) / 2,
        [shorten(name, 10) for name in column_names],
        fontsize=9.5,
        parse_math=False,
    )
    axes.tick_params(length=0, top=False, labeltop=True, bottom=False, labelbottom=False)
    axes.spines[:].set_visible(False)
    figure.suptitle(title, fontsize=12.5, parse_math=False)
    save_figure(figure, path)


def draw_votes(
    image: np.ndarray, votes: np.ndarray, label_names: Sequence[str], path: Path, title: str
) -> None:
    """Draws an image beside a histogram of what it was taken for.

    Args:
        image: float `[1 or 3, H, W]`, as the model sees it; the least and greatest value become
            black and white.
        votes: int `[classes]`, samples that predict each class. Of more than 20 classes, the 20
            with most votes are drawn.
        label_names: Class names in the order of the label ids.
        path: The PNG file to write.
        title: Stands above both.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    shown = np.sort(np.argsort(-votes, kind="stable")[:MOST_BARS])
    figure = Figure(figsize=(8.4, max(3.2, 0.27 * len(shown) + 1.2)), dpi=DOTS_PER_INCH)
    figure.set_layout_engine("constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 2))
    low, high = image.min(), image.max()
    left.imshow(np.moveaxis((image - low) / max(high - low, 1e-12), 0, -1), cmap="gray")
    left.axis("off")
    bars = right.barh(np.arange(len(shown)), votes[shown], color=BLUE)
    right.bar_label(bars, [f"{count}" if count else "" for count in votes[shown]], padding=3)
    names = [shorten(label_names[label], 20) for label in shown]
    right.set_yticks(np.arange(len(shown)), names, parse_math=False)
    right.invert_yaxis()
    right.set_xlim(0, votes.sum() * 1.06)
    right.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    right.set_xlabel("samples that predict the class")
    right.set_ylabel("class")
    right.grid(axis="x", alpha=0.3, color=GREY)
    right.set_axisbelow(True)
    right.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=12, parse_math=False)
    save_figure(figure, path)
