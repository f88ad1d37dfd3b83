"""Readers of the files that data sets are published in: IDX, and CIFAR-10's batches.

A file that is truncated or wrong raises a `UsageError` that names it.
"""

import gzip
import math
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cnnvjp.training.errors import UsageError

CLASSES = 10  # of every data set
# Compares the content of a file, not compressed, with the published one: (path, content).
Check = Callable[[Path, bytes], None]


class Part(NamedTuple):
    """Images with their labels.

    Attributes:
        images: uint8, (N, height, width, C).
        labels: int32, (N,).
    """

    images: np.ndarray
    labels: np.ndarray


def images_of_planes(planes: np.ndarray, image: tuple[int, int, int]) -> np.ndarray:
    """Arranges rows of pixels, one colour plane after the other, as images.

    Args:
        planes: N rows of C·height·width pixels.
        image: (height, width, C).

    Returns:
        Images (N, height, width, C).

    Example:
        >>> images_of_planes(np.arange(8), (2, 2, 2))[0, :, :, 1].tolist()
        [[4, 5], [6, 7]]
    """
    height, width, channels = image
    planes = planes.reshape(-1, channels, height, width)
    return np.ascontiguousarray(np.moveaxis(planes, 1, -1))


def _checked(images: np.ndarray, labels: np.ndarray, count: int, where: str) -> Part:
    """A part whose size and labels are what they should be."""
    for what, got in (("images", len(images)), ("labels", len(labels))):
        if got != count:
            raise UsageError(f"{where}: got {got} {what}; there must be {count}")
    if labels.min() < 0 or labels.max() >= CLASSES:
        raise UsageError(
            f"{where}: got labels from {labels.min()} to {labels.max()}; they must be from 0 to "
            f"{CLASSES - 1}"
        )
    return Part(images, labels.astype(np.int32))


# ------------------------------------------------------------------------------------------
# IDX files: MNIST and Fashion-MNIST
# ------------------------------------------------------------------------------------------

IDX_UINT8 = 0x08
IDX_PREFIXES = {"train": "train", "test": "t10k"}


def idx_content(array: np.ndarray) -> bytes:
    r"""The content of an IDX file of bytes.

    Args:
        array: the values, from 0 to 255.

    Returns:
        What `read_idx` reads.

    Example:
        >>> idx_content(np.array([7, 8]))
        b'\x00\x00\x08\x01\x00\x00\x00\x02\x07\x08'
    """
    sizes = np.array(array.shape, ">u4").tobytes()
    return bytes((0, 0, IDX_UINT8, array.ndim)) + sizes + array.astype(np.uint8).tobytes()


def read_idx(path: Path) -> np.ndarray:
    """Reads an IDX file of bytes, compressed by gzip if it is called .gz.

    Its content: two zero bytes, the type, the number of axes, the sizes as big-endian uint32, the
    values.

    Args:
        path: the file.

    Returns:
        The values, uint8.

    Raises:
        UsageError: if the file is not a whole IDX file of bytes.
    """
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:  # gzip's own error is an OSError
        raise UsageError(f"{path}: cannot be read; it is truncated or damaged: {error}") from error
    if len(content) < 4 or content[:3] != bytes((0, 0, IDX_UINT8)):
        raise UsageError(f"{path}: is not an IDX file of bytes: it begins with {content[:4]!r}")
    start = 4 + 4 * content[3]
    shape = tuple(
        int(n) for n in np.frombuffer(content[4:start], ">u4", len(content[4:start]) // 4)
    )
    needed = start + math.prod(shape)
    if len(shape) != content[3] or len(content) != needed:
        raise UsageError(
            f"{path}: got {len(content)} bytes, for values of shape {shape} it must be {needed}; "
            "it is truncated or damaged"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def read_idx_folder(
    folder: Path, image: tuple[int, int, int], counts: dict[str, int], check: Check
) -> dict[str, Part] | None:
    """Reads the four IDX files of MNIST or Fashion-MNIST.

    Args:
        folder: where they are.
        image: the shape of an image, (height, width, 1).
        counts: the numbers of training and test images.
        check: is given each file.

    Returns:
        The parts "train" and "test"; None if a file is missing.

    Raises:
        UsageError: if a file is truncated or wrong.
    """
    parts = {}
    for part, prefix in IDX_PREFIXES.items():
        images_path = _idx_path(folder, f"{prefix}-images-idx3-ubyte")
        labels_path = _idx_path(folder, f"{prefix}-labels-idx1-ubyte")
        if images_path is None or labels_path is None:
            return None
        images, labels = read_idx(images_path), read_idx(labels_path)
        if images.shape[1:] != image[:2]:
            raise UsageError(
                f"{images_path}: got values of shape {images.shape}; images must be "
                f"{image[0]}×{image[1]}"
            )
        if labels.ndim != 1:
            raise UsageError(f"{labels_path}: got values of shape {labels.shape}, not labels")
        where = f"{images_path} and {labels_path.name}"
        parts[part] = _checked(images[..., None], labels, counts[part], where)
        check(images_path, idx_content(images))
        check(labels_path, idx_content(labels))
    return parts


def _idx_path(folder: Path, name: str) -> Path | None:
    for spelling in (name, name.replace("-idx", ".idx")):
        for path in (folder / spelling, folder / f"{spelling}.gz"):
            if path.is_file():
                return path
    return None


# ------------------------------------------------------------------------------------------
# CIFAR-10: python and binary batches
# ------------------------------------------------------------------------------------------

CIFAR_TRAIN, CIFAR_TEST = tuple(f"data_batch_{i}" for i in range(1, 6)), ("test_batch",)


class _ArraysOnly(pickle.Unpickler):
    """Unpickles what CIFAR-10's batches consist of: dicts, lists, text and arrays.

    A pickle is a program. This one may call nothing but what puts an array together.
    """

    ALLOWED: frozenset[tuple[str, str]] = frozenset(
        {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        if name == "_reconstruct":
            # NumPy warns of the module's former name, which is in the published files.
            module = "numpy._core.multiarray"
        return super().find_class(module, name)


def read_cifar_python(path: Path) -> Part:
    """Reads a batch of CIFAR-10's python version: rows of 3 colour planes, and labels.

    Args:
        path: the file.

    Returns:
        Its images and labels.

    Raises:
        UsageError: if the file is anything else; no code in it is run.
    """
    try:
        with path.open("rb") as file:
            batch = _ArraysOnly(file, encoding="bytes").load()
        pixels, labels = np.asarray(batch[b"data"]), np.asarray(batch[b"labels"])
    except Exception as error:  # damaged pickles raise nearly anything
        raise UsageError(f"{path}: is not a batch of CIFAR-10's python version: {error}") from error
    if pixels.dtype != np.uint8 or pixels.shape != (len(labels), 3 * 32 * 32):
        raise UsageError(
            f"{path}: got {pixels.dtype} of shape {pixels.shape} for {len(labels)} labels; it must "
            f"be uint8 of shape ({len(labels)}, 3072)"
        )
    return Part(images_of_planes(pixels, (32, 32, 3)), labels)


def read_cifar_binary(path: Path) -> Part:
    """Reads a batch of CIFAR-10's binary version: for each image its label and 3 colour planes.

    Args:
        path: the file.

    Returns:
        Its images and labels.

    Raises:
        UsageError: if the file's size is not that of whole images.
    """
    content = np.fromfile(path, np.uint8)
    row = 1 + 3 * 32 * 32
    if len(content) == 0 or len(content) % row:
        raise UsageError(
            f"{path}: got {len(content)} bytes; it must be a multiple of {row}: it is truncated or "
            "damaged"
        )
    rows = content.reshape(-1, row)
    return Part(images_of_planes(rows[:, 1:], (32, 32, 3)), rows[:, 0])


def read_cifar_folder(
    folder: Path, image: tuple[int, int, int], counts: dict[str, int], check: Check
) -> dict[str, Part] | None:
    """Reads the six batches of CIFAR-10, of its python or its binary version.

    Args:
        folder: where they are.
        image: the shape of an image, (32, 32, 3).
        counts: the numbers of training and test images.
        check: is given each file.

    Returns:
        The parts "train" and "test"; None if a file is missing.

    Raises:
        UsageError: if a file is truncated or wrong.
    """
    for suffix, read in (("", read_cifar_python), (".bin", read_cifar_binary)):
        parts = {}
        for part, names in (("train", CIFAR_TRAIN), ("test", CIFAR_TEST)):
            paths = [folder / f"{name}{suffix}" for name in names]
            if not all(path.is_file() for path in paths):
                break
            each = counts[part] // len(paths)
            batches = [_checked(*read(path), each, str(path)) for path in paths]
            for path in paths:
                check(path, path.read_bytes())
            parts[part] = Part(*map(np.concatenate, zip(*batches, strict=True)))
        else:
            return parts
    return None
