"""The drawings show what the rules give."""

import io
import subprocess
import sys

import jax
import numpy as np
import PIL.Image
import pytest

import cnnvjp
from cnnvjp import plot


def written(sheet):
    """The texts of a sheet by the cell that they stand in, signs of mathematics taken off."""
    return {
        (int(text.get_position()[1]), int(text.get_position()[0])): text.get_text().strip("$")
        for text in sheet.axes.texts
        if text.get_text()
    }


def tints(sheet):
    """The colours of a sheet's cells, by the cell."""
    return {
        (int(box.get_y()), int(box.get_x())): box.get_facecolor()
        for box in sheet.axes.patches
        if box.get_fill()
    }


def colour(name):
    from matplotlib.colors import to_rgba

    return to_rgba(name)


def columns_of(sheet, title):
    """Where the matrix of a title stands in the middle."""
    return next(t.get_position() for t in sheet.axes.texts if t.get_text() == title)


def test_a_sheet_is_a_picture_of_its_size(tmp_path):
    sheet = plot.Sheet(10, 5, "Numbers.", cell=0.5)
    sheet.matrix(1, 1, [[1, -2.5], [58834, 12345.678]], [["a", ""], ["", "b"]], {(0, 1): "#ff0000"})
    assert repr(sheet) == "Numbers."
    picture = PIL.Image.open(io.BytesIO(sheet._repr_png_()))
    assert picture.size == (480, 240)  # 5 by 2.5 inches of 96 points
    cell = 48
    # A tinted cell, a white one, the ground: in its corner, away from the numbers.
    pixels = picture.convert("RGB")
    assert pixels.getpixel((int(2.1 * cell), int(1.1 * cell))) == (255, 0, 0)
    assert pixels.getpixel((int(1.1 * cell), int(2.1 * cell))) == (255, 255, 255)
    assert pixels.getpixel((int(5.5 * cell), int(4.5 * cell))) == (0xFB, 0xFA, 0xF6)
    texts = {text.get_text() for text in sheet.axes.texts}
    assert texts == {"$1$", "$-2.5$", "$58834$", "$1.235e+04$", "$a$", "$b$"}
    sheet.save(tmp_path / "sheet.svg")
    assert "<svg" in (tmp_path / "sheet.svg").read_text()


def test_an_image_keeps_the_sheets_measure():
    sheet = plot.Sheet(4, 4, "A map.")
    sheet.image(1, 1, 2, 2, [[0, 1], [2, 3]])
    assert sheet.axes.get_xlim() == (0, 4)
    assert sheet.axes.get_ylim() == (4, 0)
    pixels = PIL.Image.open(io.BytesIO(sheet._repr_png_())).convert("L")
    size = pixels.width / 4
    greys = [
        [pixels.getpixel((int((1.5 + j) * size), int((1.5 + i) * size))) for j in (0, 1)]
        for i in (0, 1)
    ]
    np.testing.assert_allclose(greys, np.array([[0, 85], [170, 255]]), atol=3)


def test_window_with_dilation():
    assert plot.window(1, 2, [["a", "b"], ["c", "d"]], step=2) == {
        (1, 2): "a",
        (1, 4): "b",
        (3, 2): "c",
        (3, 4): "d",
    }


def test_grid_marks_windows():
    sheet = plot.grid(np.arange(20).reshape(4, 5), windows=[(0, 0, 2, 2), (1, 2, 3, 2)])
    assert repr(sheet) == "A 4×5 matrix."
    frames = [box.get_bbox().bounds for box in sheet.axes.patches if not box.get_fill()]
    assert frames == [(0.5, 0.5, 2, 2), (2.5, 1.5, 2, 3)]
    tinted = {cell for cell, tint in tints(sheet).items() if tint != colour("white")}
    assert tinted == {(0, 0), (0, 1), (1, 0), (1, 1)} | {(i, j) for i in (1, 2, 3) for j in (2, 3)}


def test_routes_are_those_of_the_rule():
    x = np.array([[1, 5, 2, 0], [4, 3, 6, 9], [0, 1, 7, 1], [2, 2, 3, 4]])
    dy = np.array([[1, -2, 1], [3, 4, 2], [1, 1, 1]])
    sheet = plot.routes(x, 2, stride=1, dy=dy)
    _, backward = jax.vjp(lambda x: cnnvjp.max_pool(x, 2, stride=1), x[..., None].astype("float32"))
    (dx,) = backward(dy[..., None].astype("float32"))
    # 4 × 4 inputs and gradients, 3 × 3 outputs and gradients, and four titles and an arrow.
    texts = [text.get_text() for text in sheet.axes.texts if text.get_text()]
    for values in (x, cnnvjp.max_pool(x[..., None], 2, stride=1), dy, dx):
        expected = [f"${value:g}$" for value in np.asarray(values).ravel()]
        start = next(i for i in range(len(texts)) if texts[i : i + len(expected)] == expected)
        del texts[start : start + len(expected)]
    assert texts == ["$x$", "→", "$y$", "$dy$", "$dx$"]
    arrows = [
        text for text in sheet.axes.texts if hasattr(text, "arrow_patch") and text.arrow_patch
    ]
    assert len(arrows) == dy.size
    # 9 and 7 win several windows.
    shared = [box for box in sheet.axes.patches if box.get_facecolor() == colour(plot.SHARED)]
    assert len(shared) == 2 * len({(1, 3), (2, 2)})


def test_routes_of_ties():
    first = plot.routes([[3, 3], [3, 1]], 2, dy=[[6]])
    split = plot.routes([[3, 3], [3, 1]], 2, dy=[[6]], ties="split")
    assert sum(t.get_text() == "$2$" for t in split.axes.texts) == 3
    assert sum(t.get_text() == "$2$" for t in first.axes.texts) == 0
    assert sum(t.get_text() == "$6$" for t in first.axes.texts) == 2  # dy and dx


def test_images_kernels_and_feature_maps():
    maps = np.arange(2 * 3 * 4.0).reshape(2, 3, 4)
    sheet = plot.images(maps, titles=["a", "b"])
    shown = sheet.axes.images
    assert len(shown) == 2
    for image, values in zip(shown, maps, strict=True):
        np.testing.assert_array_equal(image.get_array(), values)
        assert image.get_clim() == (values.min(), values.max())  # each its own
    w = np.random.default_rng(0).normal(size=(3, 3, 2, 5))
    shown = plot.kernels(w).axes.images
    assert len(shown) == 10
    np.testing.assert_array_equal(shown[7].get_array(), w[:, :, 1, 2])  # the second row's third
    assert {image.get_clim() for image in shown} == {(-abs(w).max(), abs(w).max())}
    shown = plot.feature_maps(np.moveaxis(maps, 0, -1)).axes.images
    np.testing.assert_array_equal(shown[1].get_array(), maps[1])
    constant = plot.images(np.ones((1, 2, 2)), symmetric=True).axes.images[0]
    assert constant.get_clim() == (-1, 1)


@pytest.mark.parametrize(("stride", "size", "introduction"), [(1, (3, 4), 3), (2, (5, 6), 4)])
def test_the_animation_fills_in_the_gradient(stride, size, introduction, tmp_path, monkeypatch):
    frames = []
    animation = plot.Animation.__init__

    def keep(self, sheets, durations, alt):
        frames.extend(sheets)
        animation(self, sheets, durations, alt)

    monkeypatch.setattr(plot.Animation, "__init__", keep)
    dy, w = np.array([[2, -1, 3], [1, 3, 0]]), np.array([[1, 2], [3, 4]])
    moving = plot.backward_animation(dy, w, stride=stride, output_size=size, milliseconds=500)
    moving.save(tmp_path / "moving.gif")
    gif = PIL.Image.open(io.BytesIO((tmp_path / "moving.gif").read_bytes()))
    places = size[0] * size[1]
    assert gif.n_frames == introduction + places + 1
    durations = []
    for i in range(gif.n_frames):
        gif.seek(i)
        durations.append(gif.info["duration"])
    assert durations == [1000] * introduction + [500] * places + [2000]
    x = np.zeros((*size, 1), "float32")
    _, backward = jax.vjp(
        lambda x: cnnvjp.conv(x, w[..., None, None].astype("float32"), stride=stride), x
    )
    (dx,) = backward(dy[..., None].astype("float32"))
    texts = [text.get_text() for text in frames[-1].axes.texts if text.get_text()]
    expected = [f"${value:g}$" for value in np.asarray(dx).ravel()]
    assert any(texts[i : i + len(expected)] == expected for i in range(len(texts)))
    # The line below adds up to the place's gradient.
    for frame, value in zip(frames[introduction:-1], np.asarray(dx).ravel(), strict=True):
        line = frame.axes.texts[-1].get_text().strip("$")
        terms, total = line.split(" = ")
        assert float(total) == value == eval(terms.replace(r"\cdot", "*"))
    assert "data:image/gif;base64," in moving._repr_html_()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plot.grid([1, 2]), r"values: got shape \(2,\); expected \(rows, columns\)"),
        (lambda: plot.grid([[1, 2]], windows=[(0, 1, 1, 2)]), "windows: got .* leaves a matrix of 1×2"),
        (lambda: plot.routes(np.ones((2, 2, 2)), 2), r"x: got shape \(2, 2, 2\)"),
        (lambda: plot.routes(np.ones((4, 4)), 2, dy=np.ones((3, 3))), r"dy: got shape \(3, 3\); the output has \(2, 2\)"),
        (lambda: plot.images(np.ones((2, 2))), r"maps: got shape \(2, 2\)"),
        (lambda: plot.images(np.ones((2, 2, 2)), titles=["a"]), "titles: got 1 for 2 maps"),
        (lambda: plot.kernels(np.ones((3, 3))), r"w: got shape \(3, 3\)"),
        (lambda: plot.feature_maps(np.ones((3, 3))), r"y: got shape \(3, 3\)"),
        (lambda: plot.backward_animation([1], [[1]]), r"dy: got shape \(1,\)"),
        (lambda: plot.backward_animation([[1]], [[1]], stride=2, output_size=9), "output_size"),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_without_matplotlib_it_says_what_to_install():
    code = (
        "import sys; sys.modules['matplotlib'] = None; sys.modules['matplotlib.figure'] = None\n"
        "import cnnvjp\n"
        "try:\n    import cnnvjp.plot\n"
        "except ModuleNotFoundError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'cnnvjp[notebooks]'" in done.stdout
