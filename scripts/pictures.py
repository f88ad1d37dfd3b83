"""Draws the pictures of the README.

    python scripts/pictures.py

The animation is made by the library, the chart from the README's own table of speeds.
"""

import re
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from cnnvjp import plot

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "notebooks" / "pictures"
BAR = "#0b62a4"


def speeds(readme: str) -> list[tuple[str, str, float]]:
    """The numbers of the README's table: what was measured, which pass of it, how many times."""
    section = readme.split("\n## Speed on the CPU\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")][2:]
    found = []
    for row in rows:
        title, ratios, _ = (cell.strip() for cell in row.strip("|").split(" | "))
        what, _, passes = title.partition(": ")
        names = passes.split(", ") if passes else [""]
        times = [float(number) for number in re.findall(r"([\d.]+)×", ratios)]
        found += [(what, name, time) for name, time in zip(names, times, strict=True)]
    return found


def draw_speeds(rows: list[tuple[str, str, float]]) -> Figure:
    """Bars: how many times faster than JAX's autodiff, on a logarithmic axis."""
    figure = Figure((8.6, 0.29 * len(rows) + 0.9), dpi=110, facecolor=plot.PAPER)
    axes: Any = figure.add_axes((0.44, 0.14, 0.5, 0.84))
    axes.set_facecolor(plot.PAPER)
    places = range(len(rows))
    axes.barh(places, [time - 1 for *_, time in rows], left=1, color=BAR, height=0.68)
    axes.axvline(1, color=plot.INK, linewidth=1)
    axes.set_xscale("log")
    axes.set_xlim(0.8, 1.8 * max(time for *_, time in rows))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(places, [f"{what}: {name}" if name else what for what, name, _ in rows])
    for place, (*_, time) in enumerate(rows):
        axes.text(max(time, 1) * 1.08, place, f"{time:g}×", va="center", color=plot.INK, fontsize=9)
    axes.set_xticks([1, 3, 10, 30, 100, 300], ["1", "3", "10", "30", "100", "300"])
    axes.minorticks_off()
    axes.tick_params(labelsize=9, length=0, colors=plot.INK)
    axes.set_xlabel(
        "times faster than JAX's autodiff, on two CPU cores", color=plot.INK, fontsize=9
    )
    axes.grid(axis="x", color=plot.LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right", "bottom", "left"):
        axes.spines[side].set_visible(False)
    return figure


def main() -> None:
    """Writes both pictures."""
    FOLDER.mkdir(exist_ok=True)
    dy, w = [[2, -1], [1, 3]], [[1, 2, 1], [0, 3, 2], [4, 0, 1]]
    plot.backward_animation(dy, w, stride=2).save(FOLDER / "convolution_backwards.gif")
    rows = speeds((ROOT / "README.md").read_text("utf-8"))
    # What it was drawn from goes with it, so that the tests can tell when it is stale.
    draw_speeds(rows).savefig(
        FOLDER / "speed.png", facecolor=plot.PAPER, metadata={"Description": repr(rows)}
    )


if __name__ == "__main__":
    main()
