"""The data sets: where their files are, what is in them, and whether it is what it should be.

Images are uint8 arrays (N, height, width, C), labels int32 (N,).
"""

import gzip
import hashlib
import math
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from sklearn.datasets import fetch_openml, load_digits
from sklearn.model_selection import train_test_split
from training_config import UsageError

from cnnvjp.resizing import resize

CLASSES = 10
TEST_SHARE = 0.2  # of the digits, which come undivided
DIGITS_SIZE = (32, 32)  # one pixel of the 8×8 originals is 4


class Part(NamedTuple):
    """Images with their labels."""

    images: np.ndarray
    labels: np.ndarray


class DataSet(NamedTuple):
    """A data set's parts, and what its classes are called.

    Attributes:
        parts: "train", "test" and, where images are held out for it, "validation".
        classes: the names of the labels 0, 1, ….
    """

    parts: dict[str, Part]
    classes: tuple[str, ...]


class Source(NamedTuple):
    """Where the files of a data set come from.

    Attributes:
        read: finds the files in a folder and reads them, or returns None.
        image: the shape of an image.
        counts: the numbers of training and test images.
        subfolders: what the folders with its files are called in a folder of data sets.
        openml: its name at openml.org, version 1, where the training images come first.
        classes: the names of its labels.
        files: what people are told to look for.
        digests: SHA-256 of a part's pixels and labels, a byte each, where it is known.
    """

    read: Callable[[Path, "Source"], dict[str, Part] | None]
    image: tuple[int, int, int]
    counts: dict[str, int]
    subfolders: tuple[str, ...]
    openml: str
    classes: tuple[str, ...]
    files: str
    digests: dict[str, str]


def load(name: str, folder: Path | None = None, *, validation: int = 0, seed: int = 0) -> DataSet:
    """Reads a data set.

    Args:
        name: "digits", or one of SOURCES.
        folder: where its files are; by default the usual places and openml.org are tried.
        validation: how many training images to hold out.
        seed: which ones, and which digits are the test images.

    Returns:
        The data set.

    Raises:
        UsageError: for files that are not there, truncated or wrong, by name.
    """
    if name == "digits":
        parts, classes = digits(seed), tuple("0123456789")
    else:
        source = SOURCES[name]
        parts, classes = _from_files(name, source, folder), source.classes
    train = parts["train"]
    if validation:
        if validation >= len(train.images):
            raise UsageError(
                f"--validation: got {validation}; there are {len(train.images)} training images"
            )
        order = np.random.default_rng((seed, 1)).permutation(len(train.images))
        held_out, kept = np.sort(order[:validation]), np.sort(order[validation:])
        parts = {
            "train": Part(train.images[kept], train.labels[kept]),
            "validation": Part(train.images[held_out], train.labels[held_out]),
            "test": parts["test"],
        }
    return DataSet(parts, classes)


def statistics(images: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, of images whose white is 1."""
    axes = tuple(range(images.ndim - 1))
    mean = images.mean(axes, dtype=np.float64)
    square = np.square(images, dtype=np.uint16).mean(axes, dtype=np.float64)
    deviation = np.sqrt(np.maximum(square - mean**2, 1.0))  # at least one grey level
    return (mean / 255).tolist(), (deviation / 255).tolist()


def digits(seed: int) -> dict[str, Part]:
    """Scikit-learn's digits, scaled up to 32×32; a fifth of each class is for testing."""
    bundled = load_digits()
    small = jnp.asarray(bundled.images[..., None] / 16, jnp.float32)  # grey levels 0 … 16
    images = np.rint(np.asarray(resize(small, DIGITS_SIZE)) * 255).astype(np.uint8)
    labels = bundled.target.astype(np.int32)
    train, test, train_labels, test_labels = train_test_split(
        images, labels, test_size=TEST_SHARE, random_state=seed, stratify=labels
    )
    return {"train": Part(train, train_labels), "test": Part(test, test_labels)}


# ------------------------------------------------------------------------------------------
# Finding files
# ------------------------------------------------------------------------------------------

USUAL_PLACES = ("data", "~/data", "~/datasets", "~/.keras/datasets", "/usr/share/datasets")


def _from_files(name: str, source: Source, folder: Path | None) -> dict[str, Part]:
    places = [folder] if folder else [Path(place).expanduser() for place in USUAL_PLACES]
    for place in places:
        # Only a folder that was named may hold the files themselves: those of MNIST and of
        # Fashion-MNIST have the same names.
        for candidate in (*([place] if folder else []), *(place / s for s in source.subfolders)):
            if candidate.is_dir() and (parts := source.read(candidate, source)) is not None:
                _check_digests(parts, source, str(candidate))
                return parts
    if folder:
        raise UsageError(f"--data-dir: got {folder}, where {name} is not: {source.files}")
    return _from_openml(name, source)


def _from_openml(name: str, source: Source) -> dict[str, Part]:
    try:
        fetched = fetch_openml(
            source.openml, version=1, as_frame=False, parser="liac-arff", n_retries=1, delay=0.0
        )
    except OSError as error:  # urllib's errors are of this kind
        raise UsageError(
            f"--data {name}: its files are not in the usual places ({', '.join(USUAL_PLACES)}) and "
            f"openml.org cannot be reached ({error}); give their folder as --data-dir: "
            f"{source.files}"
        ) from error
    pixels, labels = np.asarray(fetched.data), np.asarray(fetched.target).astype(np.int32)
    train, total = source.counts["train"], sum(source.counts.values())
    if pixels.shape != (total, math.prod(source.image)):
        raise UsageError(f"--data {name}: openml.org sent an array of shape {pixels.shape}")
    images = _images(pixels.astype(np.uint8), source.image)
    parts = {
        "train": Part(images[:train], labels[:train]),
        "test": Part(images[train:], labels[train:]),
    }
    _check_digests(parts, source, "openml.org")
    return parts


def _images(planes: np.ndarray, image: tuple[int, int, int]) -> np.ndarray:
    """Images from rows of pixels, one colour plane after the other."""
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


def _check_digests(parts: dict[str, Part], source: Source, where: str) -> None:
    """Compares parts of the right size with the published ones, where those are known."""
    for name, expected in source.digests.items():
        digest = hashlib.sha256(parts[name].images.tobytes())
        digest.update(parts[name].labels.astype(np.uint8).tobytes())
        if digest.hexdigest() != expected:
            raise UsageError(
                f"{where}: the {name} images or labels have the right size but are not the "
                f"published ones: their SHA-256 is {digest.hexdigest()}, not {expected}"
            )


# ------------------------------------------------------------------------------------------
# IDX files: MNIST and Fashion-MNIST
# ------------------------------------------------------------------------------------------

IDX_UINT8 = 0x08


def read_idx(path: Path) -> np.ndarray:
    """Reads an IDX file of bytes, compressed by gzip if it is called .gz.

    Two zero bytes, the type, the number of axes, the sizes as big-endian uint32, the values.
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


def _read_idx_folder(folder: Path, source: Source) -> dict[str, Part] | None:
    parts = {}
    for part, prefix in (("train", "train"), ("test", "t10k")):
        images_path = _idx_path(folder, f"{prefix}-images-idx3-ubyte")
        labels_path = _idx_path(folder, f"{prefix}-labels-idx1-ubyte")
        if images_path is None or labels_path is None:
            return None
        images, labels = read_idx(images_path), read_idx(labels_path)
        if images.shape[1:] != source.image[:2]:
            raise UsageError(
                f"{images_path}: got values of shape {images.shape}; images must be "
                f"{source.image[0]}×{source.image[1]}"
            )
        if labels.ndim != 1:
            raise UsageError(f"{labels_path}: got values of shape {labels.shape}, not labels")
        where = f"{images_path} and {labels_path.name}"
        parts[part] = _checked(images[..., None], labels, source.counts[part], where)
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
            # NumPy 2 warns of the module that it was called by when these files were written.
            module = np._core.multiarray.__name__ if hasattr(np, "_core") else module
        return super().find_class(module, name)


def read_cifar_python(path: Path) -> Part:
    """Reads a batch of CIFAR-10's python version: rows of 3 colour planes, and labels."""
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
    return Part(_images(pixels, (32, 32, 3)), labels)


def read_cifar_binary(path: Path) -> Part:
    """Reads a batch of CIFAR-10's binary version: for each image its label and 3 colour planes."""
    content = np.fromfile(path, np.uint8)
    row = 1 + 3 * 32 * 32
    if len(content) == 0 or len(content) % row:
        raise UsageError(
            f"{path}: got {len(content)} bytes; it must be a multiple of {row}: it is truncated or "
            "damaged"
        )
    rows = content.reshape(-1, row)
    return Part(_images(rows[:, 1:], (32, 32, 3)), rows[:, 0])


def _read_cifar_folder(folder: Path, source: Source) -> dict[str, Part] | None:
    for suffix, read in (("", read_cifar_python), (".bin", read_cifar_binary)):
        parts = {}
        for part, names in (("train", CIFAR_TRAIN), ("test", CIFAR_TEST)):
            paths = [folder / f"{name}{suffix}" for name in names]
            if not all(path.is_file() for path in paths):
                break
            each = source.counts[part] // len(paths)
            batches = [_checked(*read(path), each, str(path)) for path in paths]
            parts[part] = Part(*map(np.concatenate, zip(*batches, strict=True)))
        else:
            return parts
    return None


# ------------------------------------------------------------------------------------------
# The sources
# ------------------------------------------------------------------------------------------

IDX_FILES = (
    "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and "
    "t10k-labels-idx1-ubyte, each with or without .gz"
)
CIFAR_FILES = "data_batch_1 to data_batch_5 and test_batch, all without or all with .bin"

SOURCES = {
    "mnist": Source(
        _read_idx_folder,
        (28, 28, 1),
        {"train": 60000, "test": 10000},
        ("mnist", "MNIST/raw", "MNIST"),
        "mnist_784",
        tuple("0123456789"),
        IDX_FILES,
        {},
    ),
    "fashion-mnist": Source(
        _read_idx_folder,
        (28, 28, 1),
        {"train": 60000, "test": 10000},
        ("fashion-mnist", "FashionMNIST/raw", "FashionMNIST"),
        "Fashion-MNIST",
        (
            "T-shirt",
            "trousers",
            "pullover",
            "dress",
            "coat",
            "sandal",
            "shirt",
            "sneaker",
            "bag",
            "ankle boot",
        ),
        IDX_FILES,
        {
            "train": "16d82e2b505296aa2b78bd5ea0992634f30419a4c97def7c907d154a35ac6157",
            "test": "9f1ec356a747bfe4ebab3cfb722d3694c9ca737e2570f6f90cf31d7b6fd689d4",
        },
    ),
    "cifar10": Source(
        _read_cifar_folder,
        (32, 32, 3),
        {"train": 50000, "test": 10000},
        ("cifar-10-batches-py", "cifar-10-batches-bin", "cifar10", "cifar-10"),
        "CIFAR_10",
        (
            "airplane",
            "automobile",
            "bird",
            "cat",
            "deer",
            "dog",
            "frog",
            "horse",
            "ship",
            "truck",
        ),
        CIFAR_FILES,
        {},
    ),
}
