"""The data sets: where their files are, their sizes, and the digests of their contents.

Images are uint8 arrays (N, height, width, C), labels int32 (N,).
"""

import functools
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
from cnnvjp.training.formats import (
    IDX_PREFIXES,
    Check,
    Part,
    idx_content,
    images_of_planes,
    read_cifar_folder,
    read_idx_folder,
)

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


Reader = Callable[[Path, tuple[int, int, int], dict[str, int], Check], dict[str, Part] | None]


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
        digests: MD5 of each published file, not compressed, by its name.
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
        UsageError: if there is no such data set, or one of its files is missing, truncated,
            wrong, or another data set's.

    Example:
        >>> data = load_data("digits", validation=100)
        >>> {name: len(part.images) for name, part in data.parts.items()}
        {'train': 1337, 'validation': 100, 'test': 360}
    """
    if name == "digits":
        if folder is not None:
            raise UsageError(
                f"--data-dir: got {folder} for digits, which come with scikit-learn; it is for "
                f"{', '.join(SOURCES)}"
            )
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
    check = functools.partial(_check_digest, name)
    places = [folder] if folder else [Path(place).expanduser() for place in USUAL_PLACES]
    for place in places:
        # Only a folder that was named may hold the files themselves: those of MNIST and of
        # Fashion-MNIST have the same names.
        for candidate in (*([place] if folder else []), *(place / s for s in source.subfolders)):
            if (
                candidate.is_dir()
                and (parts := source.read(candidate, source.image, source.counts, check))
                is not None
            ):
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
    # Of CIFAR-10 scikit-learn has checked what openml.org sent; it is not made of such files.
    if source.read is read_idx_folder:
        for part, prefix in IDX_PREFIXES.items():
            images, labels = parts[part]
            where = Path("openml.org")
            _check_digest(name, where / f"{prefix}-images-idx3-ubyte", idx_content(images[..., 0]))
            _check_digest(name, where / f"{prefix}-labels-idx1-ubyte", idx_content(labels))
    return parts


def _check_digest(name: str, path: Path, content: bytes) -> None:
    """Compares a file that can be read with the published one, if its digest is known."""
    file = path.name.removesuffix(".gz").replace(".idx", "-idx")
    expected = SOURCES[name].digests.get(file)
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if expected is None or digest == expected:
        return
    for other, source in SOURCES.items():
        if digest in source.digests.values():
            raise UsageError(f"{path}: is a file of {other}, not of {name}; use --data {other}")
    raise UsageError(
        f"{path}: is not the file that was published, though it has its size: its MD5, not "
        f"compressed, is {digest}, and must be {expected}"
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
        {
            "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
            "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
            "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
            "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
        },
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
            "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
            "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
            "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
            "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
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
        {
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
            "test_batch": "40351d587109b95175f43aff81a1287e",
            "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
            "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
            "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
            "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
            "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
            "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
        },
    ),
}
