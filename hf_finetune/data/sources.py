"""Where the published data sets lie: files, addresses, checksums, and how they are unpacked.

A table for `download`; nothing here reads or fetches anything.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RemoteFile:
    """One published file.

    Attributes:
        name: Its name under the address, and in the data set's folder.
        checksum: `<algorithm>:<hex>`, sha256 or md5.
        size_bytes: Its size, where it is known.
    """

    name: str
    checksum: str
    size_bytes: int | None = None


@dataclass(frozen=True)
class Source:
    """One published data set.

    Attributes:
        addresses: Folders on the web that hold the files, tried in this order; each ends with `/`.
        files: The files.
        unpacked_bytes: For a data set in archives: the most that one may hold; None: no archives.
        google_drive: Identifier of a shared Google Drive folder with the same files.
    """

    addresses: tuple[str, ...]
    files: tuple[RemoteFile, ...]
    unpacked_bytes: int | None = None
    google_drive: str | None = None


# The sha256 of the corrupted MNIST and the md5 of MNIST were computed on the files themselves. The
# other checksums are those that the publishers and their well-known loaders state.
_CORRUPT_MNIST = {
    "test_images.pt": (
        15680759,
        "dd9b18b9dd77b40f5d4812c6b36564f225b1237a43cc52d7270347865e2e6dd1",
    ),
    "test_target.pt": (80759, "882ded6d1a24b040597484df543d5fb65085a3db4573774566d1b5aaea42cb43"),
    "train_images_0.pt": (
        15680768,
        "2427a97e38c6cc9b76b10e69b3613df9f3e0107e501be87b36da2c67e0d682ff",
    ),
    "train_images_1.pt": (
        15680768,
        "3bf882a8c40744b421dfda62dcb0dfcf2a2869934af8b913da55525a36e0f7c5",
    ),
    "train_images_2.pt": (
        15680768,
        "1ae881d9d38e83d4d7b4b7cabf21442e4a21f70941b639367f21054e75242802",
    ),
    "train_images_3.pt": (
        15680768,
        "cbc1032fb2dbee8625badff46dd9fe197f9b7278c75e67dd8bc58f67372e27be",
    ),
    "train_images_4.pt": (
        15680768,
        "f94c46050adadd01a20cc074bad4d0b745243a9c3a94a83ed82ea63a908ceb34",
    ),
    "train_images_5.pt": (
        15680768,
        "fae14bdaf4241f85bfa1c11fa0281fba995b700b02d6812cf1dae56da69cbf5f",
    ),
    "train_target_0.pt": (
        480768,
        "42503add39f22caf9f907b7b10467453db7e6d3a28ea8ad4e9d62bf1528b24b0",
    ),
    "train_target_1.pt": (
        480768,
        "422cdcdfd31e49ea524503aaf8af2e051a96ce08af936172d3e018401f5f3d89",
    ),
    "train_target_2.pt": (
        480768,
        "4b70a55ed27eb08ea2d1e95376fc547e03fca7d8bbc18c06e40a58e4251b5647",
    ),
    "train_target_3.pt": (
        480768,
        "aef3ea7e6db22cebf0f5aa5eb160d0e3a9ae06129a428195ce7b169a16e876d9",
    ),
    "train_target_4.pt": (
        480768,
        "5c7585d01e6551226087b18f36949eea97558ee42c99cd6bc81c2e034c6a1b4a",
    ),
    "train_target_5.pt": (
        480768,
        "7e7e1fba62c7711f34200831a3b635c6197e0044111e6bf6828ab00561f16e41",
    ),
}
_IDX_NAMES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
_MNIST_MD5 = (
    "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "d53e105ee54ea40749a09fcbcd1e9432",
    "9fb629c4189551a2d022fa330f9573f3",
    "ec29112dd5afa0611ce80d1b7f02629c",
)
_FASHION_MNIST_MD5 = (
    "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "25c81989df183df01b3e8a0aad5dffbe",
    "bef4ecab320f06d8554ea6380940ec79",
    "bb300cfdad3c16e7a12a480ee83cd310",
)
_COURSE = "https://raw.githubusercontent.com/SkafteNicki/dtu_mlops"


def _idx_files(md5: tuple[str, ...]) -> tuple[RemoteFile, ...]:
    return tuple(
        RemoteFile(name, f"md5:{digest}") for name, digest in zip(_IDX_NAMES, md5, strict=True)
    )


SOURCES = {
    "corrupt_mnist": Source(
        (f"{_COURSE}/data/data/corruptmnist/", f"{_COURSE}/main/data/corruptmnist/"),
        tuple(
            RemoteFile(name, f"sha256:{digest}", size)
            for name, (size, digest) in _CORRUPT_MNIST.items()
        ),
        google_drive="1ddWeCcsfmelqxF8sOGBihY9IU98S9JRP",
    ),
    "mnist": Source(
        (
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        _idx_files(_MNIST_MD5),
    ),
    "fashion_mnist": Source(
        (
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        ),
        _idx_files(_FASHION_MNIST_MD5),
    ),
    "cifar10": Source(
        ("https://www.cs.toronto.edu/~kriz/",),
        (RemoteFile("cifar-10-binary.tar.gz", "md5:c32a1d4ab5d03f1284b67883e8d87530"),),
        unpacked_bytes=400_000_000,
    ),
    "thorsten_emotional": Source(
        ("https://www.openslr.org/resources/110/",),
        (
            RemoteFile(
                "thorsten-emotional_v02.tgz",
                "sha256:ff17a96a8c11742a7798e7800386159ada2ceb682ebef6402ecc68abf8c6e9bf",
                399_301_812,
            ),
        ),
        unpacked_bytes=2_000_000_000,
    ),
}
