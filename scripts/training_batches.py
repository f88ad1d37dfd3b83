"""From a training set in memory to the batches of each update: their order, shifts and flips.

Everything follows from the seed and from the number of the batch, so that a run which was stopped
goes on as if it hadn't been, and several processes take parts of the same batch.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from training_data import Part
from training_files import only_errors_logged

from cnnvjp.normalization import standardize

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
            epochs: how often the training set is gone through, each time in a new order.
            parts: the number of equal parts in which a batch is served.
            seed: fixes the order.
            mine: (i, n): of each part, the i-th of n equal shares is served.
        """
        self._part, self._size, self._parts, self._seed = part, size, parts, seed
        self._mine = mine
        self._epochs = epochs
        self.per_epoch = len(part.images) // size

    def __len__(self) -> int:
        return self._epochs * self.per_epoch

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Images (parts, N, height, width, C) and labels (parts, N)."""
        epoch, batch = divmod(int(number), self.per_epoch)
        chosen = self._order(epoch)[batch * self._size : (batch + 1) * self._size]
        i, n = self._mine
        chosen = chosen.reshape(self._parts, n, -1)[:, i]
        return self._part.images[chosen], self._part.labels[chosen]

    def _order(self, epoch: int) -> np.ndarray:
        return _permutation(self._seed, epoch, len(self._part.images))


@functools.lru_cache(maxsize=2)  # of this epoch, and of the next
def _permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng((seed, ORDER, epoch)).permutation(count)


def iterate(source: ShuffledBatches) -> Any:
    """A grain iterator, read ahead by a thread; `get_state` and `set_state` save its place."""
    # For JAX before 0.11 grain warns that it cannot profile its worker processes: none are here.
    with only_errors_logged():
        import grain
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
    return iter(grain.MapDataset.source(source).to_iter_dataset(options))


# ------------------------------------------------------------------------------------------
# Augmentation: pure functions of a key and of images of any dtype, (N, height, width, C)
# ------------------------------------------------------------------------------------------


def shifted(key: jax.Array, images: jax.Array, reach: int) -> jax.Array:
    """Each image moved by up to `reach` pixels along both axes, with zeros behind it."""
    if reach == 0:
        return images
    border = ((0, 0), (reach, reach), (reach, reach), (0, 0))
    corners = jax.random.randint(key, (len(images), 2), 0, 2 * reach + 1)

    def crop(image: jax.Array, corner: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), images.shape[1:])

    return jax.vmap(crop)(jnp.pad(images, border), corners)


def flipped(key: jax.Array, images: jax.Array) -> jax.Array:
    """Each image, or its mirror image."""
    mirrored = jax.random.bernoulli(key, 0.5, (len(images), 1, 1, 1))
    return jnp.where(mirrored, images[:, :, ::-1], images)


def scaled(images: jax.Array, mean: list[float], deviation: list[float]) -> jax.Array:
    """Bytes as the network takes them: white is 1, then standardized by channel."""
    x = images.astype(jnp.float32) / 255
    return standardize(x, jnp.asarray(mean, x.dtype), jnp.asarray(deviation, x.dtype))


def augmented(seed: int, number: jax.Array, images: jax.Array, shift: int, flip: bool) -> jax.Array:
    """The images of a step of that number, shifted and flipped."""
    key = jax.random.fold_in(jax.random.key(seed), AUGMENTATION)
    shift_key, flip_key = jax.random.split(jax.random.fold_in(key, number))
    images = shifted(shift_key, images, shift)
    return flipped(flip_key, images) if flip else images
