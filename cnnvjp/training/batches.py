"""From a training set in memory to the batches of each update: their order, shifts and flips.

Everything follows from the seed and from the number of the batch, so that a run which was stopped
goes on as if it hadn't been, and several processes take parts of the same batch.
"""

import functools
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from cnnvjp.normalization import standardize
from cnnvjp.training.files import only_errors_logged
from cnnvjp.training.formats import Part

# The seed serves several ends, each with numbers of its own.
ORDER, AUGMENTATION = 2, 3


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


def augmented(seed: int, number: jax.Array, images: jax.Array, shift: int, flip: bool) -> jax.Array:
    """Shifts and flips the images of one step.

    Args:
        seed: the run's.
        number: the step's; the same seed and number give the same result.
        images: of any dtype, (N, height, width, C).
        shift: the largest offset, in pixels.
        flip: whether to mirror half of them.

    Returns:
        Images of the same shape and dtype.
    """
    key = jax.random.fold_in(jax.random.key(seed), AUGMENTATION)
    shift_key, flip_key = jax.random.split(jax.random.fold_in(key, number))
    images = shifted(shift_key, images, shift)
    return flipped(flip_key, images) if flip else images
