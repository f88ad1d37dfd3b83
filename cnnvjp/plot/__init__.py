"""Drawings of what the rules do: matrices with windows marked, routes, maps, a moving kernel.

Needs matplotlib, which the extra `notebooks` installs; `import cnnvjp` alone does not import this
module. Every function returns a picture that notebooks show and that `save` writes to a file. The
pictures bring their own light ground, so that they read on a dark page as well.
"""

from cnnvjp.plot._sheet import FAINT, INK, LINE, NAME, PAPER, SHARED, TINTS, WRONG, Sheet, window

# After _sheet, which says what to install where there is no matplotlib.
from cnnvjp.plot._animation import Animation, backward_animation  # isort: skip
from cnnvjp.plot._pictures import feature_maps, grid, images, kernels, routes  # isort: skip

__all__ = [
    "FAINT",
    "INK",
    "LINE",
    "NAME",
    "PAPER",
    "SHARED",
    "TINTS",
    "WRONG",
    "Animation",
    "Sheet",
    "backward_animation",
    "feature_maps",
    "grid",
    "images",
    "kernels",
    "routes",
    "window",
]
