"""What the worked examples share: the sources' arrays, and their sums read as they are written."""

import re

import jax
import numpy as np
from checker import value_and_cotangents


def one_map(rows):
    """A single map, printed as a matrix, as (rows, columns, 1)."""
    return jax.device_put(np.asarray(rows, "float64")[..., None])


def kernel(rows):
    """A kernel from one map to one, printed as a matrix, as (rows, columns, 1, 1)."""
    return jax.device_put(np.asarray(rows, "float64")[..., None, None])


def matrix(x):
    """What `one_map` or `kernel` made, as a matrix again."""
    return np.asarray(x).reshape(x.shape[:2])


def maps(planes_of_maps):
    """Maps (channels, *spatial), as most sources order them, as (*spatial, channels)."""
    return jax.device_put(np.moveaxis(np.asarray(planes_of_maps, "float64"), 0, -1))


def planes(x):
    """The inverse of `maps`."""
    return np.moveaxis(np.asarray(x), -1, 0)


def kernels(w):
    """Kernels (out, in, *kernel) as (*kernel, in, out); the inverse is `filters`."""
    return jax.device_put(np.moveaxis(np.asarray(w, "float64"), (0, 1), (-1, -2)))


def filters(w):
    """The inverse of `kernels`."""
    return np.moveaxis(np.asarray(w), (-1, -2), (0, 1))


def pull_back(f, *args, dy):
    """The cotangents of f's arguments, by the rules of the library; one alone is no tuple."""
    _, cotangents = value_and_cotangents(f, args, dy)
    return cotangents[0] if len(args) == 1 else cotangents


def shape_of(f, *shapes):
    """The shape of what f makes of arrays of these shapes, without computing it."""
    return jax.eval_shape(f, *[jax.ShapeDtypeStruct(shape, "float64") for shape in shapes]).shape


def worked(sums, **numbers):
    """The values of sums of products, one to a line, such as "b ← w2 δ1 + w1 δ2".

    w2 is the second entry, counted row by row, of the array given as w. A letter without a
    number is a number by itself.
    """
    return [_sum(line, numbers) for line in sums.strip().splitlines()]


def _sum(line, numbers):
    _, terms = re.split("[=←]", line)
    return sum(
        np.prod([_factor(symbol, numbers) for symbol in term.split()]) for term in terms.split("+")
    )


def _factor(symbol, numbers):
    name, place = re.fullmatch(r"(\D+)(\d*)", symbol).groups()
    return np.ravel(numbers[name])[int(place) - 1] if place else numbers[name]
