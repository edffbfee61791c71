"""Makes `samples/` from the full data sets; run it only to make the samples anew.

    python scripts/make_samples.py --corruptmnist PATH/TO/corruptmnist

Corrupted MNIST: the course's own files (DTU MLOps, github.com/SkafteNicki/dtu_mlops, branch
`data`), made from MNIST (Y. LeCun, C. Cortes, C. Burges; CC BY-SA 3.0). The sample keeps the file
names, the keys and the types; it holds the first rows of every file, and the zip archive that a
`.pt` file is has its members compressed, which `torch.load` reads all the same (12.6 MB -> 1.4 MB).
"""

from __future__ import annotations

import argparse
import hashlib
import io
import zipfile
from pathlib import Path

import torch

SAMPLES = Path(__file__).resolve().parent.parent / "samples"
TRAIN_ROWS, TEST_ROWS = 700, 1000
# SHA-256 of the full files, so that the sample can only be made from the true ones.
SOURCE_SHA256 = {
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
}


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


def make_corruptmnist(source: Path, target: Path) -> None:
    """Copies the first rows of every file of the corrupted MNIST.

    Raises:
        SystemExit: A source file is not the published one.
    """
    target.mkdir(parents=True, exist_ok=True)
    for name, expected in SOURCE_SHA256.items():
        found = hashlib.sha256((source / name).read_bytes()).hexdigest()
        if found != expected:
            raise SystemExit(f"{source / name}: its SHA-256 is {found}, not {expected}.")
        rows = TEST_ROWS if name.startswith("test") else TRAIN_ROWS
        tensor = torch.load(source / name, weights_only=True)
        save_compressed(tensor[:rows], target / name)


def main() -> None:
    """Makes the samples that were asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--corruptmnist", type=Path, required=True, metavar="DIR")
    arguments = parser.parse_args()
    make_corruptmnist(arguments.corruptmnist, SAMPLES / "corruptmnist")


if __name__ == "__main__":
    main()
