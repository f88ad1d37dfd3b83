"""From a training set in memory to the batches of each update: their order and augmentation.

Everything follows from the seed and from the number of the batch, so that a run which was stopped
goes on as if it hadn't been, and several processes take parts of the same batch.
"""

import functools
import math
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from cnnvjp.normalization import standardize
from cnnvjp.sampling import affine_positions, sample
from cnnvjp.training.files import only_errors_logged
from cnnvjp.training.formats import Part

# The seed serves several ends, each with numbers of its own.
ORDER, AUGMENTATION, WARPING = 2, 3, 4
SMOOTHNESS = 8  # an image's side, in standard deviations of the filter of elastic fields


class ShuffledBatches:
    """The batches of all epochs, as grain's sources are: by number, in any order.

    Grain's own shuffling handles record by record, which takes 10 µs each: for 60 000 images,
    0.6 s of every epoch. Whole batches take 0.02 s.
    """

    def __init__(
        self, part: Part, *, size: int, epochs: int, parts: int, seed: int, mine: tuple[int, int]
    ) -> None:
        """Plans the batches.

        Args:
            part: the training set.
            size: images per batch.
            epochs: number of passes over the training set, each in a new order.
            parts: the number of equal parts in which a batch is served.
            seed: fixes the order.
            mine: (i, n): of each part, the i-th of n equal shares is served.

        Example:
            >>> part = Part(np.zeros((10, 8, 8, 1), np.uint8), np.zeros(10, np.int32))
            >>> source = ShuffledBatches(part, size=4, epochs=3, parts=1, seed=0, mine=(0, 1))
            >>> len(source), source[0][0].shape
            (6, (1, 4, 8, 8, 1))
        """
        self._part, self._size, self._parts, self._seed = part, size, parts, seed
        self._mine = mine
        self._epochs = epochs
        self.per_epoch = len(part.images) // size

    def __len__(self) -> int:
        return self._epochs * self.per_epoch

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Images (parts, N, height, width, C) and labels (parts, N)."""
        epoch, batch = divmod(int(index), self.per_epoch)
        chosen = self._order(epoch)[batch * self._size : (batch + 1) * self._size]
        i, n = self._mine
        chosen = chosen.reshape(self._parts, n, -1)[:, i]
        return self._part.images[chosen], self._part.labels[chosen]

    def _order(self, epoch: int) -> np.ndarray:
        return _permutation(self._seed, epoch, len(self._part.images))


@functools.lru_cache(maxsize=2)  # of this epoch, and of the next
def _permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng((seed, ORDER, epoch)).permutation(count)


class BatchIterator(Protocol):
    """An iterator over batches whose position can be saved, as grain's are."""

    def __next__(self) -> tuple[np.ndarray, np.ndarray]:
        """The next batch: images and labels."""
        ...

    def get_state(self) -> dict[str, Any]:
        """The position, as values that go into JSON."""
        ...

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues from a position that `get_state` returned."""


def iterate(source: ShuffledBatches) -> BatchIterator:
    """Iterates over batches, with a thread that reads ahead.

    Args:
        source: the batches.

    Returns:
        A grain iterator; `get_state` and `set_state` save and restore its position.
    """
    # For JAX before 0.11 grain warns that it cannot profile its worker processes: none are here.
    with only_errors_logged():
        import grain
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
    return iter(grain.MapDataset.source(source).to_iter_dataset(options))


# ------------------------------------------------------------------------------------------
# Augmentation: pure functions of a key and of images of any dtype, (N, height, width, C)
# ------------------------------------------------------------------------------------------


def shifted(key: jax.Array, images: jax.Array, reach: int) -> jax.Array:
    """Moves each image by up to `reach` pixels along both axes, with zeros behind it.

    Args:
        key: for the random offsets.
        images: of any dtype, (N, height, width, C).
        reach: the largest offset, in pixels.

    Returns:
        Images of the same shape and dtype.
    """
    if reach == 0:
        return images
    border = ((0, 0), (reach, reach), (reach, reach), (0, 0))
    corners = jax.random.randint(key, (len(images), 2), 0, 2 * reach + 1)

    def crop(image: jax.Array, corner: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), images.shape[1:])

    return jax.vmap(crop)(jnp.pad(images, border), corners)


def flipped(key: jax.Array, images: jax.Array) -> jax.Array:
    """Mirrors each image, left to right, with probability one half.

    Args:
        key: for the random choice.
        images: of any dtype, (N, height, width, C).

    Returns:
        Images of the same shape and dtype.
    """
    mirrored = jax.random.bernoulli(key, 0.5, (len(images), 1, 1, 1))
    return jnp.where(mirrored, images[:, :, ::-1], images)


def warped(
    key: jax.Array, images: jax.Array, *, rotate: float, zoom: float, elastic: float
) -> jax.Array:
    """Rotates, zooms and deforms each image about its centre, by random amounts of its own.

    The angle is uniform, and so is the logarithm of the factor. All three make one map from an
    image's pixels to positions in the original, which is read there by linear interpolation, with
    zeros beyond its edges.

    Args:
        key: for the random amounts.
        images: of any dtype, (N, height, width, C).
        rotate: the largest angle in degrees, either way.
        zoom: the largest factor; the smallest is its reciprocal.
        elastic: how many pixels the elastic field moves the pixel that it moves furthest.

    Returns:
        Images of the same shape and dtype; integers are rounded.
    """
    if rotate == 0 and zoom == 1 and elastic == 0:
        return images
    count, size = len(images), images.shape[1:3]
    angle_key, factor_key, field_key = jax.random.split(key, 3)
    angles, logarithms = (
        jax.random.uniform(key, (count,), jnp.float32, -reach, reach)
        for key, reach in ((angle_key, math.radians(rotate)), (factor_key, math.log(zoom)))
    )
    positions = affine_positions(turns(angles, jnp.exp(logarithms), size), size)
    if elastic:
        positions = positions + elastic * elastic_fields(field_key, count, size)
    return read(images, positions)


def read(images: jax.Array, positions: jax.Array) -> jax.Array:
    """Reads images at positions by linear interpolation, with zeros beyond their edges.

    Args:
        images: of any dtype, (N, height, width, C).
        positions: float32, (N, rows, columns, 2).

    Returns:
        (N, rows, columns, C), of the images' dtype; integers are rounded.

    Example:
        >>> images = np.array([10, 20, 50], np.uint8).reshape(1, 1, 3, 1)
        >>> read(images, jnp.array([0.0, 0.51]).reshape(1, 1, 1, 2))
        Array([[[[15]]]], dtype=uint8)
    """
    y = sample(images.astype(jnp.float32), positions)
    if jnp.issubdtype(images.dtype, jnp.integer):
        y = jnp.round(y)
    return y.astype(images.dtype)


def turns(angles: jax.Array, factors: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """Matrices for `affine_positions` that rotate images counterclockwise and enlarge them.

    Args:
        angles: in radians, (N,).
        factors: of the enlargement, (N,).
        size: the images' height and width.

    Returns:
        (N, 2, 3).

    Example:
        >>> turns(jnp.array([0.0]), jnp.array([2.0]), (8, 8))[0]
        Array([[ 0.5, -0. ,  0. ],
               [ 0. ,  0.5,  0. ]], dtype=float32)
    """
    height, width = size
    cosines, sines = jnp.cos(angles) / factors, jnp.sin(angles) / factors
    zeros = jnp.zeros_like(angles)
    # The matrix's coordinates go from -1 to 1 across an image, however long a side is.
    rows = (
        (cosines, -sines * (height / width), zeros),
        (sines * (width / height), cosines, zeros),
    )
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)


def elastic_fields(key: jax.Array, count: int, size: tuple[int, ...]) -> jax.Array:
    """Random smooth displacements, independent normal numbers under a Gaussian filter.

    The filter's standard deviation is an eighth of an image's shorter side, 4 pixels of 32.

    Args:
        key: for the random numbers.
        count: how many fields.
        size: the images' height and width.

    Returns:
        float32, (count, height, width, 2); the longest vector of each field has the length 1.

    Source: Simard, Steinkraus and Platt, "Best Practices for Convolutional Neural Networks Applied
    to Visual Document Analysis" (2003), section 2.
    """
    rows, columns = (_smoothing(n, min(size) / SMOOTHNESS) for n in size)
    noise = jax.random.normal(key, (count, 2, rows.shape[1], columns.shape[1]), jnp.float32)
    fields = jnp.einsum("ik,ndkl,jl->nijd", rows, noise, columns)
    lengths = jnp.sqrt(jnp.sum(fields**2, axis=-1, keepdims=True))
    return fields / jnp.max(lengths, axis=(1, 2), keepdims=True)


def _smoothing(n: int, deviation: float) -> np.ndarray:
    """The matrix of a Gaussian filter, from noise that reaches 3 deviations beyond n pixels.

    Noise one deviation apart is enough for a field this smooth: the sum of the squared weights, and
    with it the field's variance, is the same at every pixel to 1e-4.
    """
    reach = 3
    points = np.arange(-reach, math.ceil((n - 1) / deviation) + reach + 1) * deviation
    distances = (np.arange(n)[:, None] - points[None]) / deviation
    return np.exp(-(distances**2) / 2).astype(np.float32)


def scaled(images: jax.Array, mean: list[float], deviation: list[float]) -> jax.Array:
    """Converts bytes to the network's input: white becomes 1, then each channel is standardized.

    Args:
        images: uint8, (N, height, width, C).
        mean: of each channel, of images whose white is 1.
        deviation: of each channel; what the difference is divided by.

    Returns:
        float32, (N, height, width, C).

    Example:
        >>> scaled(np.full((1, 1, 1, 1), 255, np.uint8), [0.5], [0.25]).item()
        2.0
    """
    x = images.astype(jnp.float32) / 255
    return standardize(x, jnp.asarray(mean, x.dtype), jnp.asarray(deviation, x.dtype))


def augmented(
    seed: int,
    number: jax.Array,
    images: jax.Array,
    shift: int,
    flip: bool,
    *,
    rotate: float = 0.0,
    zoom: float = 1.0,
    elastic: float = 0.0,
) -> jax.Array:
    """Warps, shifts and flips the images of one step.

    Args:
        seed: the run's.
        number: the step's; the same seed and number give the same result.
        images: of any dtype, (N, height, width, C).
        shift: the largest offset, in pixels.
        flip: whether to mirror half of them.
        rotate: the largest angle, in degrees.
        zoom: the largest factor.
        elastic: the longest displacement, in pixels.

    Returns:
        Images of the same shape and dtype.
    """
    shift_key, flip_key = jax.random.split(_step_key(seed, AUGMENTATION, number))
    warp_key = _step_key(seed, WARPING, number)
    images = warped(warp_key, images, rotate=rotate, zoom=zoom, elastic=elastic)
    images = shifted(shift_key, images, shift)
    return flipped(flip_key, images) if flip else images


def _step_key(seed: int, purpose: int, number: jax.Array) -> jax.Array:
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), purpose), number)
