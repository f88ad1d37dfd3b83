"""The checks that every operation passes, whatever it computes.

A test module is a table of cases and calls into these. `f` is the operation with its options
bound, `reference` the same mathematics in lax or jnp operations, differentiated by JAX.
"""

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

    def run(args, dy):
        y, pullback = jax.vjp(f, *args)
        return y, pullback(dy)

    return jax.jit(run)(args, dy)


def check_first_order(f, reference, *args, seed=1):
    """Values and cotangents equal those of JAX's autodiff of the reference."""
    outputs = jax.eval_shape(f, *args)
    expected_outputs = jax.eval_shape(reference, *args)
    assert jax.tree.map(lambda y: (y.shape, y.dtype), outputs) == jax.tree.map(
        lambda y: (y.shape, y.dtype), expected_outputs
    )
    dy = cotangents(np.random.default_rng(seed), outputs)
    actual = value_and_cotangents(f, args, dy)
    expected = value_and_cotangents(reference, args, dy)
    for got, want in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert got.dtype == want.dtype
        assert_close(got, want)


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
    low = tuple(a.astype(dtype) for a in args)
    high = tuple(a.astype("float64") for a in low)
    outputs = jax.eval_shape(f, *low)
    dy = cotangents(np.random.default_rng(3), outputs)
    actual = value_and_cotangents(f, low, dy)
    wide = jax.tree.map(lambda t, y: t.astype(y.dtype), dy, jax.eval_shape(f, *high))
    expected = value_and_cotangents(f, high, wide)
    for got, argument in zip(actual[1], low, strict=True):
        assert got.dtype == argument.dtype
    for got, want in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert_close(got, want, tolerance=tolerance)


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
