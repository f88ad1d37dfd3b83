"""A GIF made of sheets, and the one of a convolution's backward pass."""

import base64
import html
import io
import os
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
import PIL.Image
from numpy.typing import ArrayLike

from cnnvjp.convolution import conv_transpose
from cnnvjp.padding import pad
from cnnvjp.plot._sheet import TINTS, Place, Sheet, number, require_matrix, window
from cnnvjp.resampling import upsample


class Animation:
    """A GIF made of sheets.

    Args:
        frames: what is shown, in turn, all of one size. All get the palette of the last but one.
        durations: how long each stays, in milliseconds.
        alt: what it shows, in words.
    """

    def __init__(self, frames: Sequence[Sheet], durations: Sequence[int], alt: str):
        """Draws the frames."""
        drawn = [frame._image(dpi=80) for frame in frames]
        palette = frames[-2:][0]._palette(drawn[-2:][0])
        pictures = [
            image.quantize(palette=palette, dither=PIL.Image.Dither.NONE) for image in drawn
        ]
        written = io.BytesIO()
        first, *others = pictures
        first.save(
            written,
            "GIF",
            save_all=True,
            append_images=others,
            duration=list(durations),
            loop=0,
            optimize=True,
        )
        self.alt, self.data = alt, written.getvalue()

    def __repr__(self) -> str:
        """What the animation shows, in words."""
        return self.alt

    def _repr_html_(self) -> str:
        return f'<img alt="{html.escape(self.alt)}" src="data:image/gif;base64,{self._base64()}">'

    def _base64(self) -> str:
        return base64.b64encode(self.data).decode()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the GIF."""
        with open(path, "wb") as file:
            file.write(self.data)


def backward_animation(
    dy: ArrayLike,
    w: ArrayLike,
    *,
    stride: int = 1,
    output_size: int | tuple[int, int] | None = None,
    milliseconds: int = 700,
) -> Animation:
    """Shows the gradient of a convolution's input being made, place by place ([GBC] 9.13).

    The gradient at the output is spread by the stride and padded with zeros, and the rotated kernel
    slides over it: each place gives the gradient of one input.

    Args:
        dy: (rows, columns); the gradient at the output, small whole numbers for choice.
        w: (rows, columns); the kernel, at most three by three to have a colour for each tap.
        stride: the forward convolution's.
        output_size: the input's size, as in `cnnvjp.conv_transpose`.
        milliseconds: how long a place stays.

    Returns:
        The animation.

    Raises:
        ValueError: if dy or w is no matrix, or as `cnnvjp.conv_transpose`.

    Example:
        >>> backward_animation([[1, 2], [3, 4]], [[1, 2], [3, 4]]).data[:3]
        b'GIF'
    """
    dy, w = require_matrix("dy", dy).astype(float), require_matrix("w", w).astype(float)
    dx = np.asarray(
        conv_transpose(
            jnp.asarray(dy)[..., None],
            jnp.asarray(w)[..., None, None],
            stride=stride,
            output_size=output_size,
        )[..., 0]
    )
    rotated = w[::-1, ::-1]
    spread = np.asarray(upsample(jnp.asarray(dy)[..., None], stride))
    # Beside the k − 1 zeros of every side, those for the inputs that no window reached.
    border = [
        (k - 1, n - size) for k, n, size in zip(w.shape, dx.shape, spread.shape[:2], strict=True)
    ]
    padded = np.asarray(pad(jnp.asarray(spread), border))[..., 0]
    spread = spread[..., 0]

    taps = np.array([TINTS[n % len(TINTS)] for n in range(w.size)]).reshape(w.shape)
    rotated_taps = taps[::-1, ::-1]
    # From left to right, with gaps: the kernel, what it slides over, and what comes of it.
    middle = 1.4 + max(padded.shape[0], dx.shape[0]) / 2
    lefts = np.cumsum([0.7, w.shape[1] + 1.4, padded.shape[1] + 1.4])
    columns, rows = lefts[2] + dx.shape[1] + 0.7, 2 * middle + 0.4
    alt = "The rotated kernel slides over the gradient at the output, spread and padded with zeros."

    def draw(kernel: str, operand: str, place: Place | None = None, known: int = 0) -> Sheet:
        """One frame: what the kernel and its operand are by now, and how much of dx is known."""
        sheet = Sheet(columns, rows, alt)

        def put(
            left: float,
            width: int,
            values: np.ndarray,
            tints: Mapping[Place, str] | None,
            title: str,
        ) -> None:
            left += (width - values.shape[1]) / 2
            sheet.matrix(left, middle - values.shape[0] / 2, values, None, tints, title)

        turned = kernel != "w"
        put(
            lefts[0],
            w.shape[1],
            rotated if turned else w,
            window(0, 0, rotated_taps if turned else taps),
            kernel,
        )
        sheet.text(lefts[1] - 0.7, middle, "⊗", 0.6)
        values = {"dy": dy, "dy, spread": spread}.get(operand, padded)
        tints = window(*place, rotated_taps) if place else None
        put(lefts[1], padded.shape[1], values, tints, operand)
        sheet.text(lefts[2] - 0.7, middle, "=", 0.6)
        shown = [number(value) if n < known else "" for n, value in enumerate(dx.flat)]
        tints = {place: TINTS[1]} if place else None
        put(lefts[2], dx.shape[1], np.reshape(shown, dx.shape), tints, "dx")
        if place:
            row, column = place
            height, width = w.shape
            sheet.frame(lefts[1] + column, middle - padded.shape[0] / 2 + row, width, height)
            sheet.frame(lefts[2] + column, middle - dx.shape[0] / 2 + row, 1, 1)
            met = padded[row : row + height, column : column + width]
            factors = zip(rotated.flat, met.flat, strict=True)
            products = [rf"{number(a)} \cdot {_signed(b)}" for a, b in factors if b]
            line = f"${' + '.join(products) or '0'} = {number(dx[place])}$"
            sheet.text(columns / 2, rows - 0.75, line, 0.42)
        return sheet

    kernel, operand = "w, rotated", "dy, padded" if stride == 1 else "dy, spread and padded"
    frames = [draw("w", "dy")]
    if stride > 1:
        frames.append(draw("w", "dy, spread"))
    frames += [draw("w", operand), draw(kernel, operand)]
    introduction = [2 * milliseconds] * len(frames)
    places = list(np.ndindex(dx.shape))
    frames += [draw(kernel, operand, place, n) for n, place in enumerate(places, 1)]
    frames.append(draw(kernel, operand, known=dx.size))
    durations = [*introduction, *(milliseconds for _ in places), 4 * milliseconds]
    return Animation(frames, durations, alt)


def _signed(value: float) -> str:
    return f"({number(value)})" if value < 0 else number(value)
