"""The readers of data files: good ones, and every way in which a file can be wrong."""

import functools
import gzip
import hashlib
import pickle
import re
import struct

import numpy as np
import pytest

pytest.importorskip("sklearn")
from PIL import Image

from cnnvjp.training import UsageError, formats, read_picture
from cnnvjp.training import data as training_data

TINY = {"train": 50, "test": 20}
PUBLISHED = {name: source.digests for name, source in training_data.SOURCES.items()}


@pytest.fixture
def tiny(monkeypatch):
    """Sources that expect tiny files, whose digests nobody knows."""
    sources = {
        name: source._replace(counts=TINY, digests={})
        for name, source in training_data.SOURCES.items()
    }
    monkeypatch.setattr(training_data, "SOURCES", sources)
    monkeypatch.setattr(training_data, "USUAL_PLACES", ())
    return sources


def idx(array):
    """The bytes of an IDX file."""
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes((0, 0, 8, array.ndim)) + sizes + array.astype("uint8").tobytes()


def write_mnist(folder, rng, compressed=True, split="-"):
    parts = {}
    for part, prefix in (("train", "train"), ("test", "t10k")):
        images = rng.integers(0, 256, (TINY[part], 28, 28), "uint8")
        labels = np.arange(TINY[part]) % 10
        parts[part] = images[..., None], labels
        for kind, array in (("images", images), ("labels", labels)):
            name = f"{prefix}-{kind}{split}idx{array.ndim}-ubyte"
            content = idx(array)
            if compressed:
                name, content = f"{name}.gz", gzip.compress(content)
            (folder / name).write_bytes(content)
    return parts


def write_cifar(folder, rng, binary):
    parts = {}
    for part, names in (
        ("train", formats.CIFAR_TRAIN),
        ("test", formats.CIFAR_TEST),
    ):
        count = TINY[part] // len(names)
        images = rng.integers(0, 256, (TINY[part], 32, 32, 3), "uint8")
        labels = rng.permutation(np.arange(TINY[part]) % 10)
        parts[part] = images, labels
        for i, name in enumerate(names):
            mine = slice(i * count, (i + 1) * count)
            planes = np.moveaxis(images[mine], -1, 1).reshape(count, 3072)
            if binary:
                rows = np.concatenate([labels[mine, None].astype("uint8"), planes], 1)
                (folder / f"{name}.bin").write_bytes(rows.tobytes())
            else:
                batch = {b"data": planes, b"labels": labels[mine].tolist()}
                (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    return parts


def digest(content):
    return hashlib.md5(content).hexdigest()


def assert_parts(data, expected):
    assert set(data.parts) == set(expected)
    for name, (images, labels) in expected.items():
        part = data.parts[name]
        assert part.images.dtype == np.uint8 and part.labels.dtype == np.int32
        assert np.array_equal(part.images, images) and np.array_equal(part.labels, labels)


@pytest.mark.parametrize("compressed, split", [(True, "-"), (False, "-"), (False, ".")])
def test_idx(tiny, rng, tmp_path, compressed, split):
    """The digests are those of the files before they are compressed, by their first names."""
    expected = write_mnist(tmp_path, rng, compressed, split)
    labels = digest(idx(expected["test"][1]))
    for published in (labels, "0" * 32):
        digests = {"t10k-labels-idx1-ubyte": published}
        tiny["mnist"] = tiny["mnist"]._replace(digests=digests)
        if published == labels:
            assert_parts(training_data.load_data("mnist", tmp_path), expected)
        else:
            with pytest.raises(
                UsageError, match=f"its MD5, .*, is {labels}, and must be {'0' * 32}"
            ):
                training_data.load_data("mnist", tmp_path)


def test_a_folder_of_data_sets(tiny, rng, monkeypatch, tmp_path):
    """Each is found under the names that others give it, named or in a usual place."""
    for folder in ("FashionMNIST/raw", "mnist"):
        (tmp_path / folder).mkdir(parents=True)
    fashion = write_mnist(tmp_path / "FashionMNIST/raw", rng)
    digits = write_mnist(tmp_path / "mnist", rng)
    assert_parts(training_data.load_data("fashion-mnist", tmp_path), fashion)
    assert_parts(training_data.load_data("mnist", tmp_path), digits)
    monkeypatch.setattr(training_data, "USUAL_PLACES", ("/nowhere", str(tmp_path)))
    assert_parts(training_data.load_data("fashion-mnist"), fashion)


@pytest.mark.parametrize("binary", [False, True])
def test_cifar(tiny, rng, tmp_path, binary):
    expected = write_cifar(tmp_path, rng, binary)
    assert_parts(training_data.load_data("cifar10", tmp_path), expected)


def test_a_pickle_of_python_2(tmp_path):
    """As the published batches are: text keys as bytes, arrays of NumPy's old modules."""
    pixels = bytes(range(256)) * 12
    rows = pickle.dumps(np.frombuffer(pixels, "uint8").reshape(1, 3072), protocol=2)
    rows = rows.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    batch = pickle.PROTO + b"\x02}(U\x04data" + rows[2:-1] + b"U\x06labels](K\x07eu."
    (tmp_path / "batch").write_bytes(batch)
    part = formats.read_cifar_python(tmp_path / "batch")
    assert part.labels.tolist() == [7] and part.images.shape == (1, 32, 32, 3)
    assert np.moveaxis(part.images, -1, 1).tobytes() == pixels


def truncated(content):
    return content[:-7]


@pytest.mark.parametrize(
    "file, change, text",
    [
        ("train-images-idx3-ubyte", truncated, r"got \d+ bytes, .* truncated or damaged"),
        ("t10k-labels-idx1-ubyte", lambda c: c[:3], r"is not an IDX file of bytes"),
        ("t10k-labels-idx1-ubyte", lambda c: c[:6], r"truncated or damaged"),
        ("t10k-labels-idx1-ubyte", lambda c: c + b"x", r"truncated or damaged"),
        ("train-labels-idx1-ubyte", lambda c: b"\0\0\x0d" + c[3:], r"is not an IDX file of bytes"),
        ("train-labels-idx1-ubyte", lambda c: b"<html>404</html>", r"is not an IDX file of bytes"),
        ("train-labels-idx1-ubyte", lambda c: c[:-1] + b"\x0a", r"got labels from 0 to 10"),
        (
            "train-labels-idx1-ubyte",
            lambda c: idx(np.zeros(49)),
            r"got 49 labels; there must be 50",
        ),
        ("train-images-idx3-ubyte", lambda c: idx(np.zeros((50, 28, 27))), r"must be 28×28"),
        ("train-images-idx3-ubyte", lambda c: idx(np.zeros(50)), r"must be 28×28"),
        ("t10k-labels-idx1-ubyte", lambda c: idx(np.zeros((20, 2))), r"not labels"),
    ],
)
def test_wrong_idx(tiny, rng, tmp_path, file, change, text):
    write_mnist(tmp_path, rng, compressed=False)
    path = tmp_path / file
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UsageError, match=text) as error:
        training_data.load_data("mnist", tmp_path)
    assert file in str(error.value)


def flipped_bit(content):
    return content[:-30] + bytes((content[-30] ^ 1,)) + content[-29:]


@pytest.mark.parametrize("change", [truncated, flipped_bit, lambda c: c[:40], lambda c: b"PK"])
def test_wrong_gzip(tiny, rng, tmp_path, change):
    write_mnist(tmp_path, rng)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UsageError, match=f"{path}: cannot be read; it is truncated or damaged"):
        training_data.load_data("mnist", tmp_path)


class Harmful:
    """What unpickling would run a command for."""

    def __reduce__(self):
        import os

        return os.system, ("touch unpickled",)


def test_wrong_cifar(tiny, rng, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    write_cifar(tmp_path, rng, binary=False)
    path = tmp_path / "data_batch_3"
    good = path.read_bytes()
    wrong = {
        "truncated": truncated(good),
        "harmful": pickle.dumps({b"data": Harmful(), b"labels": [1] * 10}),
        "other": pickle.dumps([1, 2, 3]),
        "shape": pickle.dumps({b"data": np.zeros((10, 5), "uint8"), b"labels": [1] * 10}),
        "dtype": pickle.dumps({b"data": np.zeros((10, 3072)), b"labels": [1] * 10}),
        "labels": pickle.dumps({b"data": np.zeros((10, 3072), "uint8"), b"labels": [10] * 10}),
        "count": pickle.dumps({b"data": np.zeros((9, 3072), "uint8"), b"labels": [1] * 9}),
    }
    for content in wrong.values():
        path.write_bytes(content)
        with pytest.raises(UsageError, match=re.escape(str(path))):
            training_data.load_data("cifar10", tmp_path)
    assert not (tmp_path / "unpickled").exists()


def test_wrong_binary_cifar(tiny, rng, tmp_path):
    write_cifar(tmp_path, rng, binary=True)
    path = tmp_path / "test_batch.bin"
    path.write_bytes(truncated(path.read_bytes()))
    with pytest.raises(UsageError, match=f"{path}: got 61453 bytes; it must be a multiple of 3073"):
        training_data.load_data("cifar10", tmp_path)


@pytest.mark.parametrize(
    "name, write, changed",
    [
        ("mnist", functools.partial(write_mnist, compressed=False), lambda c: c[:-1] + b"\x03"),
        ("cifar10", functools.partial(write_cifar, binary=True), lambda c: c[:-1] + b"\x03"),
        ("cifar10", functools.partial(write_cifar, binary=False), lambda c: c + b"\x03"),
    ],
)
def test_each_file_is_compared_with_the_published(tiny, rng, tmp_path, name, write, changed):
    """Images and labels of both parts; those of another data set are told to be that one's."""
    write(tmp_path, rng)
    files = list(tmp_path.iterdir())
    digests = {path.name: digest(path.read_bytes()) for path in files}
    assert digests.keys() <= PUBLISHED[name].keys()
    tiny[name] = tiny[name]._replace(digests=digests)
    training_data.load_data(name, tmp_path)
    for path in files:
        good = path.read_bytes()
        path.write_bytes(changed(good))
        with pytest.raises(UsageError, match=f"{path}: is not the file that was published"):
            training_data.load_data(name, tmp_path)
        path.write_bytes(good)
    tiny[name] = tiny[name]._replace(digests=dict.fromkeys(digests, "0" * 32))
    tiny["fashion-mnist"] = tiny["fashion-mnist"]._replace(digests=digests)
    with pytest.raises(
        UsageError, match=f"is a file of fashion-mnist, not of {name}; use --data fashion-mnist"
    ):
        training_data.load_data(name, tmp_path)


GREY = np.array([[0, 100, 200], [255, 1, 50]], "uint8")
COLOUR = np.stack([GREY, GREY[::-1], 255 - GREY], -1)


def of_alpha(alpha):
    return np.dstack([COLOUR, np.full(GREY.shape, alpha, "uint8")])


def palette():
    """The three colours of a row of pixels, of which the second is transparent."""
    picture = Image.frombytes("P", (3, 2), bytes((0, 1, 2, 2, 1, 0)))
    picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    picture.info["transparency"] = 1
    return picture


COLOURS = np.array([[[255, 0, 0], [0, 0, 0], [0, 0, 255]]] * 2)
COLOURS[1] = COLOURS[1, ::-1]


@pytest.mark.parametrize(
    "picture, name, expected",
    [
        (Image.fromarray(GREY), "a.png", np.dstack([GREY] * 3)),
        (Image.fromarray(COLOUR), "a.png", COLOUR),
        (Image.fromarray(GREY > 99), "a.png", np.dstack([255 * (GREY > 99)] * 3)),
        (Image.fromarray(GREY * np.uint16(257)), "a.png", np.dstack([GREY] * 3)),
        (Image.fromarray(GREY * np.uint16(257)), "a.tiff", np.dstack([GREY] * 3)),
        (Image.fromarray(GREY * np.int32(257)), "a.tiff", np.dstack([GREY] * 3)),
        (Image.fromarray(of_alpha(255)), "a.png", COLOUR),
        (Image.fromarray(of_alpha(0)), "a.png", 0 * COLOUR),
        (Image.fromarray(of_alpha(51)), "a.png", COLOUR / 5),
        (Image.fromarray(np.dstack([GREY, 0 * GREY + 51])), "a.png", np.dstack([GREY / 5] * 3)),
        (palette(), "a.png", COLOURS),
        (palette(), "a.gif", COLOURS),
        (
            Image.frombytes("CMYK", (3, 2), of_alpha(0).tobytes()),
            "a.tiff",
            255 - COLOUR.astype(int),
        ),
    ],
)
def test_pictures(tmp_path, picture, name, expected):
    """Each kind, in colour and in grey: 16 bits to 8, and what is transparent on black."""
    path = tmp_path / name
    picture.save(path)
    found = read_picture(path, (2, 3, 3))
    assert found.dtype == np.uint8
    np.testing.assert_allclose(found, expected, atol=0.6)
    grey = read_picture(path, (2, 3, 1))
    np.testing.assert_allclose(grey[..., 0], expected @ [0.299, 0.587, 0.114], atol=1)


def test_pictures_that_are_turned_or_of_another_size(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    Image.fromarray(COLOUR).save(tmp_path / "turned.png", exif=exif)
    turned = read_picture(tmp_path / "turned.png", (3, 2, 3))
    assert (turned == np.rot90(COLOUR, -1)).all()
    halves = np.zeros((40, 40), "uint8")
    halves[:, 20:] = 200
    Image.fromarray(halves).save(tmp_path / "large.png")
    assert read_picture(tmp_path / "large.png", (1, 4, 1)).ravel().tolist()[::3] == [0, 200]


@pytest.mark.parametrize(
    "content, text",
    [
        (None, "No such file"),
        (b"no picture", "cannot identify"),
        (b"", "cannot identify"),
        (0.5, "truncated|broken"),
        (np.full((2, 3), 0.5, "float32"), "got floating-point numbers"),
        (np.full((2, 3), -5, "int32"), "got grey levels from -5 to -5; .* from 0 to 65535"),
    ],
)
def test_what_is_no_picture_is_named(tmp_path, content, text):
    path = tmp_path / "a.tiff"
    if isinstance(content, np.ndarray):
        Image.fromarray(content).save(path)
    elif isinstance(content, float):
        path = tmp_path / "a.png"
        Image.fromarray(np.tile(COLOUR, (20, 20, 1))).save(path)
        whole = path.read_bytes()
        path.write_bytes(whole[: int(content * len(whole))])
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=f"{path}: .*({text})"):
        read_picture(path, (2, 3, 3))


def test_no_files_and_no_network(tiny, monkeypatch):
    def fetch(*_, **__):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(training_data, "fetch_openml", fetch)
    with pytest.raises(
        UsageError, match=r"--data cifar10: .* openml.org cannot be reached .no route"
    ):
        training_data.load_data("cifar10")


def test_no_such_data_set():
    with pytest.raises(UsageError, match="--data: got 'imagenet'; it must be digits, mnist"):
        training_data.load_data("imagenet")


def test_openml(tiny, rng, monkeypatch):
    """Rows of pixels as floats, labels as text, training images first."""

    class Fetched:
        data = rng.integers(0, 256, (70, 784)).astype("float64")
        target = np.array([str(i % 10) for i in range(70)])

    monkeypatch.setattr(training_data, "fetch_openml", lambda *_, **__: Fetched)
    images = Fetched.data.reshape(70, 28, 28, 1)
    labels = np.arange(70) % 10
    expected = {"train": (images[:50], labels[:50]), "test": (images[50:], labels[50:])}
    assert_parts(training_data.load_data("mnist"), expected)
    files = {
        f"{prefix}-{kind}-ubyte": idx(array.squeeze())
        for prefix, part in (("train", "train"), ("t10k", "test"))
        for kind, array in zip(("images-idx3", "labels-idx1"), expected[part], strict=True)
    }
    right = {name: digest(content) for name, content in files.items()}
    tiny["mnist"] = tiny["mnist"]._replace(digests=right)
    assert_parts(training_data.load_data("mnist"), expected)
    for name in files:
        tiny["mnist"] = tiny["mnist"]._replace(digests=right | {name: "0" * 32})
        with pytest.raises(UsageError, match=f"openml.org/{name}: is not the file"):
            training_data.load_data("mnist")


def test_digits():
    """A stratified split that the seed fixes."""
    train, test = (training_data.digits(3)[name] for name in ("train", "test"))
    assert train.images.shape == (1437, 32, 32, 1) and test.images.shape == (360, 32, 32, 1)
    assert train.images.dtype == np.uint8 and test.labels.dtype == np.int32
    assert train.images.min() == 0 and train.images.max() == 255
    counts = np.bincount(test.labels)
    assert counts.min() >= 35 and counts.max() <= 37
    again, other = training_data.digits(3), training_data.digits(4)
    assert (again["test"].images == test.images).all()
    assert (other["test"].labels != test.labels).any()


def test_validation_is_held_out_of_the_training_set():
    whole = training_data.load_data("digits").parts
    parts = training_data.load_data("digits", validation=100, seed=0).parts
    assert {name: len(part.labels) for name, part in parts.items()} == {
        "train": 1337,
        "validation": 100,
        "test": 360,
    }
    together = np.concatenate([parts["train"].images, parts["validation"].images])
    rows = lambda images: sorted(image.tobytes() for image in images)
    assert rows(together) == rows(whole["train"].images)
    assert (parts["test"].images == whole["test"].images).all()
