"""Real positions: which pixels one lies between, and with which weights.

Along an axis of n pixels a position p has one tap ("nearest"), two ("linear") or four ("cubic"),
the integers around it. Beyond the edges a tap stands on the pixel that the padding puts there:

    "zeros"      none
    "edge"       the nearest pixel
    "reflect"    … 1 0 | 0 1 … n−1 | n−1 n−2 …    period 2n: mirrored in the pixels' edges
    "mirror"     … 2 1 | 0 1 … n−1 | n−2 n−3 …    period 2(n − 1): in the pixels' centres
    "circular"   … n−1 | 0 1 … n−1 | 0 1 …        period n

Every index is found here to be that of a pixel, or n for none, from any position whatever: a
position is first taken near the image, where int32 can count.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from cnnvjp._types import SampleMethod, SamplePadding

_SLOPE = -0.75  # of Keys' cubic kernel at distance 1, as in `resize`
_BEYOND = 3.0  # pixels from the outermost ones, where no tap stands on the image


class Taps(NamedTuple):
    """The taps of positions along one axis, each entry an array of the positions' shape.

    Attributes:
        pixels: the pixel of each tap, int32, or n for none.
        weights: the weight of each.
        slopes: the derivatives of the weights by the position, from the right.
    """

    pixels: tuple[Array, ...]
    weights: tuple[Array, ...]
    slopes: tuple[Array, ...]


def axis_taps(p: Array, n: int, method: SampleMethod, padding: SamplePadding) -> Taps:
    """The taps of positions along an axis of n pixels.

    A NaN has none with "zeros" and the first pixel otherwise, and so has an infinity where the
    padding is periodic. The slopes are 0 there, and far outside with "zeros" and "edge".

    Args:
        p: positions, of at least float32.
        n: at least 1.
        method: "nearest", "linear" or "cubic".
        padding: what lies beyond the edges.
    """
    near = _near_the_image(p, n, padding)
    if method == "nearest":
        pixel = _nearest_pixel(near, n, padding)
        return Taps((pixel,), (jnp.ones_like(p),), (jnp.zeros_like(p),))
    below = jnp.floor(near)
    first = below.astype(jnp.int32)
    offsets, weights, slopes = (_linear if method == "linear" else _cubic)(near - below)
    pixels = tuple(_pixel(first + jnp.int32(k), n, padding) for k in offsets)
    if padding != "zeros":  # with which such positions have no taps
        moves = near == p if padding == "edge" else jnp.isfinite(p)
        if method == "linear":  # between two taps on one pixel the value stays, to the last digit
            moves &= pixels[0] != pixels[1]
        slopes = tuple(jnp.where(moves, slope, 0) for slope in slopes)
    return Taps(pixels, weights, slopes)


def _linear(t: Array) -> tuple[tuple[int, ...], tuple[Array, ...], tuple[Array, ...]]:
    """Offsets, weights and slopes a fraction t ∈ [0, 1) after the pixel below."""
    one = jnp.ones_like(t)
    return (0, 1), (1 - t, t), (-one, one)


def _cubic(t: Array) -> tuple[tuple[int, ...], tuple[Array, ...], tuple[Array, ...]]:
    """The same for Keys' kernel, which is a polynomial of the distance below 1 and another to 2."""
    a = _SLOPE

    def near(d: Array) -> Array:
        return ((a + 2) * d - (a + 3)) * d * d + 1

    def near_slope(d: Array) -> Array:
        return (3 * (a + 2) * d - 2 * (a + 3)) * d

    def far(d: Array) -> Array:
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a

    def far_slope(d: Array) -> Array:
        return (3 * a * d - 10 * a) * d + 8 * a

    weights = (far(1 + t), near(t), near(1 - t), far(2 - t))
    slopes = (far_slope(1 + t), near_slope(t), -near_slope(1 - t), -far_slope(2 - t))
    return (-1, 0, 1, 2), weights, slopes


def _near_the_image(p: Array, n: int, padding: SamplePadding) -> Array:
    """A position with the taps of p that is no further from the image than a period."""
    if padding in ("zeros", "edge"):
        return jnp.clip(jnp.where(jnp.isnan(p), -_BEYOND, p), -_BEYOND, n - 1 + _BEYOND)
    known = jnp.where(jnp.isfinite(p), p, 0)
    return lax.rem(known, lax.full_like(p, _period(n, padding)))


def _period(n: int, padding: SamplePadding) -> int:
    return {"reflect": 2 * n, "mirror": max(2 * (n - 1), 1), "circular": n}[padding]


def _pixel(i: Array, n: int, padding: SamplePadding) -> Array:
    """The pixel on which tap i stands, or n for none."""
    if padding == "zeros":
        return jnp.where((i >= 0) & (i < n), i, n)
    if padding == "edge":
        return jnp.clip(i, 0, n - 1)
    period = _period(n, padding)
    i = jnp.mod(i, jnp.int32(period))
    if padding == "circular":
        return i
    return jnp.minimum(i, (period - 1 if padding == "reflect" else period) - i)


def _nearest_pixel(near: Array, n: int, padding: SamplePadding) -> Array:
    """The nearest pixel of a position that is first folded into the image, ties to even."""
    last = n - 1
    if padding == "reflect":
        near = jnp.where(near < -0.5, -1 - near, near)
        near = jnp.where(near > last + 0.5, 2 * last + 1 - near, near)
    elif padding == "mirror":
        near = jnp.abs(near)
        near = jnp.where(near > last, 2 * last - near, near)
    elif padding == "circular":
        near = jnp.where(near < 0, near + n, near)
    i = lax.round(near, lax.RoundingMethod.TO_NEAREST_EVEN).astype(jnp.int32)
    return _pixel(i, n, padding if padding in ("zeros", "circular") else "edge")
