"""Makes `samples/` from the full data sets; run it only to make the samples anew.

    python scripts/make_samples.py --corruptmnist DIR --fashion-mnist DIR --spoken-digits DIR

Corrupted MNIST: the course's own files (DTU MLOps, github.com/SkafteNicki/dtu_mlops, branch
`data`), made from MNIST (Y. LeCun, C. Cortes, C. Burges; CC BY-SA 3.0). The sample keeps the file
names, the keys and the types; it holds the first rows of every file, and the zip archive that a
`.pt` file is has its members compressed, which `torch.load` reads all the same (12.6 MB -> 1.4 MB).

Fashion-MNIST: the first rows of the four files as published (github.com/zalandoresearch/
fashion-mnist; H. Xiao, K. Rasul, R. Vollgraf, 2017; MIT licence), as idx files, gzipped.

Spoken digits: eight takes of each digit by each speaker of the Free Spoken Digit Dataset
(github.com/Jakobovski/free-spoken-digit-dataset; Z. Jackson and others; CC BY-SA 4.0), as flac.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import math
import struct
import zipfile
from pathlib import Path

import soundfile
import torch

SAMPLES = Path(__file__).resolve().parent.parent / "samples"
# SHA-256 of the full files, so that the samples can only be made from the true ones.
SOURCE_SHA256 = {
    "fashion_mnist": {
        "t10k-images-idx3-ubyte.gz": "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
        "t10k-labels-idx1-ubyte.gz": "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
        "train-images-idx3-ubyte.gz": "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
        "train-labels-idx1-ubyte.gz": "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
    },
    "corruptmnist": {
        "test_images.pt": "dd9b18b9dd77b40f5d4812c6b36564f225b1237a43cc52d7270347865e2e6dd1",
        "test_target.pt": "882ded6d1a24b040597484df543d5fb65085a3db4573774566d1b5aaea42cb43",
        "train_images_0.pt": "2427a97e38c6cc9b76b10e69b3613df9f3e0107e501be87b36da2c67e0d682ff",
        "train_images_1.pt": "3bf882a8c40744b421dfda62dcb0dfcf2a2869934af8b913da55525a36e0f7c5",
        "train_images_2.pt": "1ae881d9d38e83d4d7b4b7cabf21442e4a21f70941b639367f21054e75242802",
        "train_images_3.pt": "cbc1032fb2dbee8625badff46dd9fe197f9b7278c75e67dd8bc58f67372e27be",
        "train_images_4.pt": "f94c46050adadd01a20cc074bad4d0b745243a9c3a94a83ed82ea63a908ceb34",
        "train_images_5.pt": "fae14bdaf4241f85bfa1c11fa0281fba995b700b02d6812cf1dae56da69cbf5f",
        "train_target_0.pt": "42503add39f22caf9f907b7b10467453db7e6d3a28ea8ad4e9d62bf1528b24b0",
        "train_target_1.pt": "422cdcdfd31e49ea524503aaf8af2e051a96ce08af936172d3e018401f5f3d89",
        "train_target_2.pt": "4b70a55ed27eb08ea2d1e95376fc547e03fca7d8bbc18c06e40a58e4251b5647",
        "train_target_3.pt": "aef3ea7e6db22cebf0f5aa5eb160d0e3a9ae06129a428195ce7b169a16e876d9",
        "train_target_4.pt": "5c7585d01e6551226087b18f36949eea97558ee42c99cd6bc81c2e034c6a1b4a",
        "train_target_5.pt": "7e7e1fba62c7711f34200831a3b635c6197e0044111e6bf6828ab00561f16e41",
    },
}
# Of the names and contents of the recordings that are taken, in the order of their names.
SPOKEN_DIGITS_SHA256 = "be47eeacef3bef842ec18cd51b046d087c9cfdd58d6f2644ab1e9cc0e81e2ed9"
SPOKEN_TAKES = 8


def save_compressed(tensor: torch.Tensor, path: Path) -> None:
    """Writes a tensor as `.pt` with compressed members; the same tensor gives the same bytes."""
    plain = io.BytesIO()
    torch.save(tensor.clone(), plain)  # cloned: the course's label files carry the whole storage
    with (
        zipfile.ZipFile(plain) as source,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as target,
    ):
        for member in source.infolist():
            # torch looks for its members below the archive's name: keep what it wrote.
            entry = zipfile.ZipInfo(member.filename)
            entry.compress_type = zipfile.ZIP_DEFLATED
            target.writestr(entry, source.read(member.filename))


def check_sources(folder: Path, sample: str) -> list[str]:
    """Names of the full files of a data set, each found to be the published one.

    Raises:
        SystemExit: A file is another.
    """
    for name, expected in SOURCE_SHA256[sample].items():
        found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        if found != expected:
            raise SystemExit(f"{folder / name}: its SHA-256 is {found}, not {expected}.")
    return list(SOURCE_SHA256[sample])


def make_corruptmnist(source: Path, target: Path) -> None:
    """Copies the first 700 rows of every training file, and the first 1,000 test rows."""
    target.mkdir(parents=True, exist_ok=True)
    for name in check_sources(source, "corruptmnist"):
        rows = 1000 if name.startswith("test") else 700
        tensor = torch.load(source / name, weights_only=True)
        save_compressed(tensor[:rows], target / name)


def make_fashion_mnist(source: Path, target: Path) -> None:
    """Copies the first 2,000 training rows and the first 1,000 test rows."""
    target.mkdir(parents=True, exist_ok=True)
    for name in check_sources(source, "fashion_mnist"):
        content = gzip.decompress((source / name).read_bytes())
        axes = content[3]
        rows = 2000 if name.startswith("train") else 1000
        shape = struct.unpack(f">{axes}I", content[4 : 4 + 4 * axes])
        row_bytes = math.prod(shape[1:])
        header = content[:4] + struct.pack(f">{axes}I", rows, *shape[1:])
        body = content[4 + 4 * axes :][: rows * row_bytes]
        # No time and no name in the gzip header, so that the same rows give the same bytes.
        (target / name).write_bytes(gzip.compress(header + body, mtime=0))


def make_spoken_digits(source: Path, target: Path) -> None:
    """Copies the first 8 takes of each digit by each speaker; the samples stay what they are.

    Raises:
        SystemExit: The recordings are others.
    """
    wanted = [
        path
        for path in sorted(source.glob("*.wav"))
        if int(path.stem.rpartition("_")[2]) < SPOKEN_TAKES
    ]
    digest = hashlib.sha256()
    for path in wanted:
        digest.update(path.name.encode() + path.read_bytes())
    if digest.hexdigest() != SPOKEN_DIGITS_SHA256:
        raise SystemExit(f"{source}: the recordings are not the published ones.")
    target.mkdir(parents=True, exist_ok=True)
    for path in wanted:
        samples, rate = soundfile.read(path, dtype="int16")
        flac = target / f"{path.stem}.flac"
        soundfile.write(flac, samples, rate, subtype="PCM_16", compression_level=1.0)


def main() -> None:
    """Makes the samples that were asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--corruptmnist", type=Path, metavar="DIR")
    parser.add_argument("--fashion-mnist", type=Path, metavar="DIR")
    parser.add_argument("--spoken-digits", type=Path, metavar="DIR")
    arguments = parser.parse_args()
    if arguments.corruptmnist:
        make_corruptmnist(arguments.corruptmnist, SAMPLES / "corruptmnist")
    if arguments.fashion_mnist:
        make_fashion_mnist(arguments.fashion_mnist, SAMPLES / "fashion_mnist")
    if arguments.spoken_digits:
        make_spoken_digits(arguments.spoken_digits, SAMPLES / "spoken_digits/recordings")


if __name__ == "__main__":
    main()
