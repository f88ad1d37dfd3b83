"""What none of the five sources has, held against the papers' equations."""

import jax.numpy as jnp
import numpy as np
import pytest
from checker import assert_close
from scipy import ndimage

from cnnvjp import equations, instance_norm, local_response_norm, max_plus_conv, min_plus_conv

pytestmark = pytest.mark.versions


def test_instance_norm(rng):
    x, ones = rng.normal(size=(2, 3, 4, 2)), jnp.ones(3)
    y = instance_norm(jnp.asarray(x).transpose(0, 2, 3, 1), ones, 0 * ones, eps=0.5)
    assert_close(y.transpose(0, 3, 1, 2), equations.instance_normalization(x, 0.5))


def test_local_response(rng):
    """Its alpha is that of the paper times the number of neighbours."""
    a = rng.normal(size=(6, 2, 3))
    y = local_response_norm(jnp.asarray(a).transpose(1, 2, 0), size=3, alpha=1.5, beta=0.6, k=2)
    assert_close(y.transpose(2, 0, 1), equations.local_response(a, 3, 2, 0.5, 0.6))


def test_grey_scale_morphology(rng):
    """x ⊕ w is with the rotated kernel, x ⊖ w with −w; and as SciPy has them."""
    image, structure = rng.normal(size=(6, 5)), rng.normal(size=(3, 3))
    x, w = jnp.asarray(image)[..., None], jnp.asarray(structure)[..., None]
    rotated = w[::-1, ::-1]
    dilated = max_plus_conv(x, rotated, padding="FULL")[..., 0]
    eroded = min_plus_conv(x, -w)[..., 0]
    assert_close(dilated, equations.grey_dilation(image, structure))
    assert_close(eroded, equations.grey_erosion(image, structure))
    options = dict(structure=structure, mode="constant")
    ours = max_plus_conv(x, rotated, padding="SAME")[..., 0]
    assert_close(ours, ndimage.grey_dilation(image, cval=-np.inf, **options))
    ours = min_plus_conv(x, -w, padding="SAME")[..., 0]
    assert_close(ours, ndimage.grey_erosion(image, cval=np.inf, **options))
