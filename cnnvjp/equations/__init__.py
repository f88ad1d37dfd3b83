"""The equations of the sources, each as a short NumPy loop over its own indices.

Slow on purpose, in float64: what the rules of this library are held against, and what a reader
compares them with. A function is named after its source and its equation:

| prefix | source | numbered |
| --- | --- | --- |
| ``gbc_`` | [GBC] Goodfellow, Bengio, Courville, *Deep Learning* (2016), chapter 9 | 9.8 to 9.13 |
| ``j_`` | [J] Jefkine, *Backpropagation in Convolutional Neural Networks* (2016) | 1 to 22 |
| ``b_`` | [B] Bereyhi, *Applied Deep Learning*, chapter 4 (2026) | by slide |
| ``h_`` | [H] *Neural Network Design: Deep Learning*, chapter 8 | 8.1 to 8.53, P, E |
| ``s_`` | [S] Slides *Back propagation through a Convolutional Layer* | by slide |
| ``st_`` | [ST] Jaderberg et al., *Spatial Transformer Networks* (2015) | 1 to 7 |
| ``k_`` | [K] Keys, *Cubic Convolution Interpolation …* (1981) | by name |

Arrays have their source's order of axes, channels first or last, and every docstring gives it.
Every function raises ValueError on shapes that the equation cannot have. `ERRATA` lists what the
sources get wrong; a function ``…_as_printed`` computes it as it stands.

>>> from cnnvjp import equations
>>> equations.j_1([[1, 2, 3], [4, 5, 6]], [[1, 10]])
array([[21., 32.],
       [54., 65.]])
"""

# ruff: noqa: F403 (what each module gives is in its `__all__`)

from cnnvjp.equations import (
    _as_printed,
    _bereyhi,
    _errata,
    _gbc,
    _hagan,
    _hagan_backward,
    _interpolation,
    _jefkine,
    _slides,
)
from cnnvjp.equations._as_printed import *
from cnnvjp.equations._bereyhi import *
from cnnvjp.equations._errata import *
from cnnvjp.equations._gbc import *
from cnnvjp.equations._hagan import *
from cnnvjp.equations._hagan_backward import *
from cnnvjp.equations._interpolation import *
from cnnvjp.equations._jefkine import *
from cnnvjp.equations._slides import *

__all__: list[str] = []
__all__ += _gbc.__all__
__all__ += _jefkine.__all__
__all__ += _bereyhi.__all__
__all__ += _hagan.__all__
__all__ += _hagan_backward.__all__
__all__ += _slides.__all__
__all__ += _interpolation.__all__
__all__ += _as_printed.__all__
__all__ += _errata.__all__
