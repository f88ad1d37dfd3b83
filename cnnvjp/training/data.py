"""The data sets: where their files are, their sizes, and the digests of their contents.

Images are uint8 arrays (N, height, width, C), labels int32 (N,).
"""

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from sklearn.datasets import fetch_openml, load_digits
from sklearn.model_selection import train_test_split

from cnnvjp.resizing import resize
from cnnvjp.training.errors import UsageError
from cnnvjp.training.formats import Part, images_of_planes, read_cifar_folder, read_idx_folder

TEST_SHARE = 0.2  # of the digits, which come undivided
DIGITS_SIZE = (32, 32)  # one pixel of the 8×8 originals is 4


class DataSet(NamedTuple):
    """A data set's parts, and the names of its classes.

    Attributes:
        parts: "train", "test" and, where images are held out for it, "validation".
        classes: the names of the labels 0, 1, ….
    """

    parts: dict[str, Part]
    classes: tuple[str, ...]


Reader = Callable[[Path, tuple[int, int, int], dict[str, int]], dict[str, Part] | None]


class Source(NamedTuple):
    """Where the files of a data set come from.

    Attributes:
        read: finds the files in a folder and reads them, or returns None.
        image: the shape of an image.
        counts: the numbers of training and test images.
        subfolders: the usual names of its own folder within a folder of data sets.
        openml: its name at openml.org, version 1, where the training images come first.
        classes: the names of its labels.
        files: the names of its files, for error messages.
        digests: SHA-256 of a part's pixels and labels, a byte each, where it is known.
    """

    read: Reader
    image: tuple[int, int, int]
    counts: dict[str, int]
    subfolders: tuple[str, ...]
    openml: str
    classes: tuple[str, ...]
    files: str
    digests: dict[str, str]


def load_data(
    name: str, folder: Path | None = None, *, validation: int = 0, seed: int = 0
) -> DataSet:
    """Reads a data set.

    Args:
        name: "digits", or one of SOURCES.
        folder: where its files are; by default the usual places and openml.org are tried.
        validation: how many training images to hold out.
        seed: which ones, and which digits are the test images.

    Returns:
        The data set.

    Raises:
        UsageError: if there is no such data set, or one of its files is missing, truncated or
            wrong.

    Example:
        >>> data = load_data("digits", validation=100)
        >>> {name: len(part.images) for name, part in data.parts.items()}
        {'train': 1337, 'validation': 100, 'test': 360}
    """
    if name == "digits":
        parts, classes = digits(seed), tuple("0123456789")
    else:
        if name not in SOURCES:
            raise UsageError(f"--data: got {name!r}; it must be digits, {', '.join(SOURCES)}")
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
    """Mean and standard deviation of each channel, of images whose white is 1.

    Args:
        images: uint8, (N, height, width, C).

    Returns:
        The means, and the deviations, which are at least one grey level.

    Example:
        >>> statistics(np.full((2, 4, 4, 1), 51, np.uint8))[0]
        [0.2]
    """
    axes = tuple(range(images.ndim - 1))
    mean = images.mean(axes, dtype=np.float64)
    square = np.square(images, dtype=np.uint16).mean(axes, dtype=np.float64)
    deviation = np.sqrt(np.maximum(square - mean**2, 1.0))  # at least one grey level
    return (mean / 255).tolist(), (deviation / 255).tolist()


def digits(seed: int) -> dict[str, Part]:
    """Scikit-learn's digits, scaled up to 32×32; a fifth of each class is for testing.

    Args:
        seed: which fifth.

    Returns:
        The parts "train" and "test".
    """
    bundled: Any = load_digits()
    small = jnp.asarray(bundled.images[..., None] / 16, jnp.float32)  # grey levels 0 … 16
    images = np.rint(np.asarray(resize(small, DIGITS_SIZE)) * 255).astype(np.uint8)
    labels = bundled.target.astype(np.int32)
    divided = train_test_split(
        images, labels, test_size=TEST_SHARE, random_state=seed, stratify=labels
    )
    train, test, train_labels, test_labels = map(np.asarray, divided)
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
            if (
                candidate.is_dir()
                and (parts := source.read(candidate, source.image, source.counts)) is not None
            ):
                _check_digests(parts, source, str(candidate))
                return parts
    if folder:
        raise UsageError(f"--data-dir: got {folder}, where {name} is not: {source.files}")
    return _from_openml(name, source)


def _from_openml(name: str, source: Source) -> dict[str, Part]:
    try:
        fetched: Any = fetch_openml(
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
    images = images_of_planes(pixels.astype(np.uint8), source.image)
    parts = {
        "train": Part(images[:train], labels[:train]),
        "test": Part(images[train:], labels[train:]),
    }
    _check_digests(parts, source, "openml.org")
    return parts


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
# The sources
# ------------------------------------------------------------------------------------------

IDX_FILES = (
    "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and "
    "t10k-labels-idx1-ubyte, each with or without .gz"
)
CIFAR_FILES = "data_batch_1 to data_batch_5 and test_batch, all without or all with .bin"

SOURCES = {
    "mnist": Source(
        read_idx_folder,
        (28, 28, 1),
        {"train": 60000, "test": 10000},
        ("mnist", "MNIST/raw", "MNIST"),
        "mnist_784",
        tuple("0123456789"),
        IDX_FILES,
        {},
    ),
    "fashion-mnist": Source(
        read_idx_folder,
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
        read_cifar_folder,
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
