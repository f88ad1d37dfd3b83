"""The checks that every operation passes, whatever it computes.

A test module is a table of cases and calls into these. `f` is the operation with its options
bound, `reference` the same mathematics in lax or jnp operations, differentiated by JAX.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

# Errors allowed, as a share of the largest magnitude of the reference. The low precisions
# round their results once, and sums in at least float32 add little to that.
TOLERANCE = {
    jnp.dtype("float64"): 1e-12,
    jnp.dtype("float32"): 2e-6,
    jnp.dtype("bfloat16"): 2**-7,
    jnp.dtype("float16"): 2**-10,
}


def normal(rng, *shape, dtype="float64"):
    """Normally distributed numbers: no ties and, in tests of this size, no kinks nearby."""
    return jnp.asarray(rng.normal(size=shape), dtype)


def distinct(rng, *shape, dtype="float64"):
    """A permutation of equally spaced numbers: no ties, neighbours far apart."""
    n = int(np.prod(shape))
    return jnp.asarray(rng.permutation(n).reshape(shape) - n / 2 + 0.25, dtype)


def integers(rng, *shape, dtype="int32", low=-5, high=6):
    """Small integers."""
    return jnp.asarray(rng.integers(low, high, size=shape), dtype)


def assert_close(actual, expected, *, tolerance=None):
    """Same shapes, and the same numbers up to a share of the largest magnitude expected."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    if actual.size == 0:
        return
    if tolerance is None:
        tolerance = TOLERANCE.get(actual.dtype, 0.0)
    actual, expected = actual.astype("float64"), expected.astype("float64")
    same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
    with np.errstate(invalid="ignore"):
        error = np.where(same, 0.0, np.abs(actual - expected)).max()
    magnitude = np.abs(expected[np.isfinite(expected)]).max(initial=0.0)
    assert error <= tolerance * max(magnitude, np.finfo("float64").tiny), (
        f"error {error:.3g} of magnitude {magnitude:.3g}, allowed {tolerance:.3g} of it"
    )


def cotangents(rng, outputs):
    """Random cotangents for a tree of outputs; float0 for integer ones."""

    def one(y):
        if not jnp.issubdtype(y.dtype, jnp.floating):
            return np.zeros(y.shape, jax.dtypes.float0)
        return normal(rng, *y.shape, dtype=y.dtype)

    return jax.tree.map(one, outputs)


def value_and_cotangents(f, args, dy):
    """The outputs of f and the cotangents of its arguments, compiled."""
    return compiled(f)(args, dy)


def compiled(f):
    """The same as a function of (args, dy). It checks that f has these outputs by itself too."""
    run = jax.jit(functools.partial(pulled_back, f))

    def value_and_cotangents(args, dy):
        alone, y, dx = run(args, dy)
        assert_trees_close(alone, y)
        return y, dx

    return value_and_cotangents


def pulled_back(f, args, dy):
    """The outputs of f by itself, those of its forward pass, and the cotangents."""
    y, pullback = jax.vjp(f, *args)
    return f(*args), y, pullback(dy)


def assert_trees_close(actual, expected, *, tolerance=None):
    """Trees of the same form, shapes and dtypes, and `assert_close` of their leaves."""
    chex.assert_trees_all_equal_structs(actual, expected)
    chex.assert_trees_all_equal_shapes_and_dtypes(actual, expected)
    for got, want in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert_close(got, want, tolerance=tolerance)


def check_first_order(f, reference, *args, seed=1):
    """Values and cotangents equal those of JAX's autodiff of the reference."""
    dy = cotangents(np.random.default_rng(seed), jax.eval_shape(f, *args))

    @jax.jit
    def both(args, dy):
        y, pullback = jax.vjp(reference, *args)
        return pulled_back(f, args, dy), (y, pullback(dy))

    (alone, y, dx), expected = both(args, dy)
    assert_trees_close((y, dx), expected)
    assert_trees_close(alone, y)


def check_second_order(f, reference, *args, seed=2):
    """`jvp` of `grad` and `grad` of `grad` of a curved loss, against the reference's."""
    rng = np.random.default_rng(seed)
    argnums = tuple(range(len(args)))
    targets = [
        None if t.dtype == jax.dtypes.float0 else t
        for t in jax.tree.leaves(cotangents(rng, jax.eval_shape(f, *args)))
    ]
    direction = tuple(normal(rng, *a.shape) for a in args)

    def slopes(function, args, targets):
        def loss(*args):
            leaves = jax.tree.leaves(function(*args))
            pairs = zip(leaves, targets, strict=True)
            return sum(jnp.sum(t * jnp.sin(v)) for v, t in pairs if t is not None)

        return jax.grad(loss, argnums)(*args)

    def forward_over_reverse(function, args, direction, targets):
        return jax.jvp(lambda *args: slopes(function, args, targets), args, direction)[1]

    def reverse_over_reverse(function, args, direction, targets):
        def along(*args):
            pairs = zip(slopes(function, args, targets), direction, strict=True)
            return sum(jnp.vdot(g, d) for g, d in pairs)

        return jax.grad(along, argnums)(*args)

    # Everything is an argument, nothing a constant: XLA in JAX 0.7.2 folds sums of two
    # constant convolutions to wrong numbers.
    @jax.jit
    def three_ways(*given):
        return (
            forward_over_reverse(reference, *given),
            forward_over_reverse(f, *given),
            reverse_over_reverse(f, *given),
        )

    expected, *ways = three_ways(args, direction, targets)
    for way in ways:
        for got, want in zip(way, expected, strict=True):
            assert_close(got, want, tolerance=1e-11)


def check_adjoint(rng, linear, adjoint, shape):
    """⟨A x, y⟩ = ⟨x, Aᵀ y⟩ for a linear map, in exact integers carried by float64."""
    x = integers(rng, *shape, dtype="float64")
    y = integers(rng, *jax.eval_shape(linear, x).shape, dtype="float64")
    assert jnp.vdot(linear(x), y) == jnp.vdot(x, adjoint(y))


def check_low_precision(f, *args, dtype, terms=1):
    """Values and cotangents in `dtype`, against the same operation in float64.

    The arguments are rounded to `dtype` first, so that only the operation's own rounding is
    left to compare: that of the result, and half a float32 unit for each of the `terms` of its
    sums, which XLA may add one after another.
    """
    tolerance = max(TOLERANCE[jnp.dtype(dtype)], terms * jnp.finfo("float32").eps / 2)
    low = tuple(jnp.asarray(np.asarray(a).astype(jnp.dtype(dtype))) for a in args)
    high = tuple(jnp.asarray(np.asarray(a).astype("float64")) for a in low)
    dy = cotangents(np.random.default_rng(3), jax.eval_shape(f, *low))
    wide = jax.tree.map(lambda t, y: np.asarray(t).astype(y.dtype), dy, jax.eval_shape(f, *high))

    @jax.jit
    def both(low, dy, high, wide):
        return pulled_back(f, low, dy), pulled_back(f, high, wide)

    (alone, y, dx), (_, *expected) = both(low, dy, high, wide)
    chex.assert_trees_all_equal_dtypes(dx, low)
    for got, want in zip(jax.tree.leaves((y, dx)), jax.tree.leaves(expected), strict=True):
        assert_close(got, want, tolerance=tolerance)
    assert_trees_close(alone, y)


def count_primitives(jaxpr, *names):
    """How many equations of a program, at any depth, are of these primitives.

    The bodies and rules of custom_vjp functions do not count: those are ours.
    """
    total = 0
    for equation in jaxpr.eqns:
        total += equation.primitive.name in names
        if not equation.primitive.name.startswith("custom_vjp_call"):
            for value in equation.params.values():
                for inner in value if isinstance(value, tuple) else (value,):
                    if isinstance(inner, core.Jaxpr | core.ClosedJaxpr):
                        total += count_primitives(getattr(inner, "jaxpr", inner), *names)
    return total


def message(error):
    """The text of an exception that pytest.raises caught, on one line."""
    return " ".join(str(error.value).split())
