"""What the files in a foreign table are, and how the collators are told to read them.

`hub_rows` measures and builds the `image` or `audio` column with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Audio, Image

from hf_finetune.data.file_scan import Facts

if TYPE_CHECKING:
    from hf_finetune.data.hub import Options


class Content(Protocol):
    """A kind of files.

    Attributes:
        column: Name of their column at the room's door.
        feature: Type of an undecoded column of them.
        recipe: Says what `measure` does.
    """

    column: Literal["image", "audio"]
    feature: Image | Audio
    recipe: str

    def measure(self, name: str, content: bytes | None) -> Facts:
        """Reads a file, given by its path or by a name and its bytes; see `row_scan`."""

    def settle(self, facts: Mapping[str, Facts]) -> list[str]:
        """Learns of all files that can be used, by id, before cells are made; warns of some."""

    def make_cells(
        self, paths: pa.ChunkedArray, contents: pa.ChunkedArray, facts: Sequence[Facts | None]
    ) -> pa.ChunkedArray:
        """The column's cells: of each file its path or name, its bytes or null, and its facts."""


def content_of(kind: Literal["image", "audio"], options: Options) -> Content:
    """What the files of a data set of this kind are."""
    return ImageContent(options) if kind == "image" else AudioContent()


class ImageContent:
    """Images; see `image_files.ImageFile` for the cells."""

    column: Literal["image", "audio"] = "image"
    feature = Image(decode=False)

    def __init__(self, options: Options) -> None:
        import PIL

        # Grey made of colour is another image; what rgb adds to grey ones can be left to the end.
        self._color: Literal["as_is", "grey", "rgb"] = (
            "grey" if options.color == "grey" else "as_is"
        )
        self._final = options.color
        self._background = options.background
        self.recipe = f"image {self._color} {options.background}, Pillow {PIL.__version__}"

    def measure(self, name: str, content: bytes | None) -> Facts:
        """As `Content`."""
        from hf_finetune.data.image_files import describe_pixels, read_image

        return describe_pixels(read_image(name, self._color, self._background, content))

    def settle(self, facts: Mapping[str, Facts]) -> list[str]:
        """As `Content`: `color: auto` is grey if every image is."""
        if self._final == "auto":
            is_grey = all(one["channels"] == 1 for one in facts.values())
            self._final = "grey" if is_grey else "rgb"
        return []

    def make_cells(
        self, paths: pa.ChunkedArray, contents: pa.ChunkedArray, facts: Sequence[Facts | None]
    ) -> pa.ChunkedArray:
        """As `Content`."""
        words = {"color": self._final, "background": self._background}
        repeated = {name: pa.repeat(word, len(paths)) for name, word in words.items()}
        return _join_fields({"path": paths, **repeated, "content": contents})


class AudioContent:
    """Clips of sound; see `features.audio_decoding.AudioFile` for the cells."""

    column: Literal["image", "audio"] = "audio"
    feature = Audio(decode=False)

    def __init__(self) -> None:
        from hf_finetune.data.audio_files import RECIPE

        self.recipe = RECIPE

    def measure(self, name: str, content: bytes | None) -> Facts:
        """As `Content`."""
        from hf_finetune.data.audio_files import measure_file

        return measure_file(Path(name), content)

    def settle(self, facts: Mapping[str, Facts]) -> list[str]:
        """As `Content`: warns of clips in which nothing is heard, or that are too loud."""
        from hf_finetune.data.audio_files import find_overdriven, find_silence

        return find_silence(list(facts), facts) + find_overdriven(list(facts), facts)

    def make_cells(
        self, paths: pa.ChunkedArray, contents: pa.ChunkedArray, facts: Sequence[Facts | None]
    ) -> pa.ChunkedArray:
        """As `Content`."""
        numbers = {
            name: pa.array([one[name] if one else 0 for one in facts], pa.int64())
            for name in ("num_frames", "sampling_rate_hz")
        }
        return _join_fields({"path": paths, "bytes": contents, **numbers})


def _join_fields(fields: Mapping[str, pa.ChunkedArray | pa.Array]) -> pa.ChunkedArray:
    """Structs of some fields, on the very bytes of each."""
    return pa.chunked_array([batch.to_struct_array() for batch in pa.table(fields).to_batches()])


def name_files(
    column: pa.ChunkedArray, names: Sequence[str]
) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """Path (or, where the bytes are there, the row's name) and bytes of each file of a column."""
    contents = pc.struct_field(column, "bytes")
    own = pa.array(names, pa.string())
    return pc.if_else(pc.is_valid(contents), own, pc.struct_field(column, "path")), contents
