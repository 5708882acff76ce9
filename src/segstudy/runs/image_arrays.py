"""Arrays of images of different shapes in one .npz of a run's test: an entry for each image, NAME/INDEX."""

import io
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
from numpy.typing import ArrayLike

from segstudy.files import check_zip, open_to_read, read_array, reading


@dataclass(frozen=True)
class Compressed:
    """A uint8 array in memory, compressed: label maps shrink to a few percent."""

    shape: tuple[int, ...]
    content: bytes

    @classmethod
    def of(cls, array: np.ndarray) -> "Compressed":
        return cls(array.shape, zlib.compress(array.astype(np.uint8).tobytes(), 1))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.frombuffer(zlib.decompress(self.content), np.uint8).reshape(self.shape)


def write_image_arrays(file: BinaryIO, images: Mapping[str, Iterable[ArrayLike]], **others: np.ndarray) -> None:
    """Write name → an array for each image, `Compressed` or not, and other arrays."""
    with ZipFile(file, "w", ZIP_DEFLATED) as archive:

        def write(name: str, array: ArrayLike) -> None:
            with archive.open(f"{name}.npy", "w") as entry:
                np.lib.format.write_array(entry, np.asarray(array), allow_pickle=False)

        for name, one in others.items():
            write(name, one)
        for name, arrays in images.items():
            for i, array in enumerate(arrays):
                write(f"{name}/{i}", array)


def read_image_arrays(file: Path) -> dict[str, Sequence[np.ndarray]]:
    """The arrays of such a file by name, each image unpacked when it is asked for. Raises DamagedFile.

    Files of earlier versions hold one array (N,H,W) for all images.
    """
    with reading(file):
        with open_to_read(file) as opened:
            held = ZipFile(io.BytesIO(opened.read()))  # a file left open could not be replaced everywhere
        check_zip(held)
        entries = [entry.removesuffix(".npy") for entry in held.namelist()]
        names = dict.fromkeys(entry.rpartition("/")[0] or entry for entry in entries)
        return {
            name: read_array(held, f"{name}.npy") if name in entries else _Images(held, name)  # type: ignore[misc]
            for name in names
        }


class _Images(Sequence):
    """The images of one name."""

    def __init__(self, held: ZipFile, name: str):
        self.held, self.name = held, name
        self.length = sum(entry.startswith(f"{name}/") for entry in held.namelist())

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> np.ndarray:  # type: ignore[override]
        if not 0 <= index < self.length:
            raise IndexError(index)
        return read_array(self.held, f"{self.name}/{index}.npy")
