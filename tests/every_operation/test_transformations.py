"""Every operation under every transformation of JAX: values and gradients as without it."""

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checker import assert_close, assert_trees_close, normal
from jax import lax
from operation_table import IDS, OPERATIONS, expected, gradients, total, value_and_gradients

import cnnvjp

every_operation = pytest.mark.parametrize("operation", OPERATIONS, ids=IDS)

COPIES = 3
STEP = 1e-5  # of finite differences


assert_all_close = functools.partial(assert_trees_close, tolerance=1e-11)


def stacked(trees):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def copies(operation):
    """Some draws of all arguments, stacked: those that are not differentiated, rolled."""
    drawn = zip(*(operation.arguments(seed=seed) for seed in range(COPIES)), strict=True)
    rolled = ([np.roll(a, shift, 0) for shift in range(COPIES)] for a in operation.fixed)
    return [np.stack(draws) for draws in (*drawn, *rolled)]


@every_operation
def test_jit(operation):
    args = (*operation.arguments(), *operation.fixed)
    assert_all_close(expected(operation)(*args), value_and_gradients(operation)(*args))


@pytest.mark.versions
@every_operation
def test_constants(operation):
    """Of what the compiler knows, it computes what it would have computed of arguments."""
    args, fixed = operation.arguments(), operation.fixed

    def pulled_back(args, fixed, known):
        y, pullback = jax.vjp(lambda *args: operation.f(*args, *fixed), *args)
        dy = jax.tree.map(
            lambda k, y: (
                np.zeros(y.shape, jax.dtypes.float0)
                if not jnp.issubdtype(y.dtype, jnp.floating)
                else jnp.resize(k, y.shape).astype(y.dtype)
            ),
            jax.tree.map(lambda _: known, y),
            y,
        )
        return y, pullback(dy)

    weights = normal(np.random.default_rng(7), 101)
    nothing_known = jax.jit(pulled_back)(args, fixed, weights)
    all_known = jax.jit(lambda: pulled_back(args, fixed, weights))()
    assert_all_close(all_known, nothing_known)
    others_known = jax.jit(lambda *args: pulled_back(args, fixed, weights))(*args)
    assert_all_close(others_known, nothing_known)


def recomputes_rules_with_options():
    """Whether jax.checkpoint takes any custom_vjp function that has static options."""

    @functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
    def scaled(x, factor):
        return factor * x

    scaled.defvjp(lambda x, factor: (factor * x, None), lambda factor, _, dy: (factor * dy,))
    try:
        jax.grad(jax.checkpoint(lambda x: scaled(x, 2.0)))(1.0)
    except ValueError:
        return False
    return True


@pytest.mark.skipif(not recomputes_rules_with_options(), reason="a fault of JAX 0.10's new rules")
@every_operation
def test_checkpoint(operation):
    args = (*operation.arguments(), *operation.fixed)
    recomputed = jax.jit(gradients(operation, jax.checkpoint(operation.f)))(*args)
    assert_all_close(recomputed, expected(operation)(*args)[1])


def test_checkpoint_is_skipped_only_under_the_flag():
    assert recomputes_rules_with_options() or "JAX_CUSTOM_VJP3" in os.environ


@pytest.mark.versions
@every_operation
def test_vmap(operation):
    """Over each argument alone, over all together, and over two axes, one inside the other."""
    run, one = value_and_gradients(operation), expected(operation)
    args = copies(operation)

    def looped(axes, chosen):
        return [
            one(*(a[i] if axis == 0 else a[0] for a, axis in zip(args, axes, strict=True)))
            for i in chosen
        ]

    together = (0,) * len(args)
    alone = [tuple(0 if i == j else None for j in range(len(args))) for i in range(len(args))]
    for axes in dict.fromkeys([together, *alone]):
        given = [a if axis == 0 else a[0] for a, axis in zip(args, axes, strict=True)]
        actual = jax.jit(jax.vmap(run, axes))(*given)
        assert_all_close(actual, stacked(looped(axes, range(COPIES))))

    square = [np.stack([a[:2], a[1:]]) for a in args]
    nested = jax.jit(jax.vmap(jax.vmap(run), in_axes=1, out_axes=1))(*square)
    first, second, third = looped(together, range(COPIES))
    assert_all_close(nested, stacked([stacked([first, second]), stacked([second, third])]))


@every_operation
def test_scan(operation):
    """A loss that is summed in a loop, differentiated through the loop."""
    args = copies(operation)
    count = len(operation.shapes)

    def loss(differentiated, fixed):
        def step(so_far, part):
            return so_far + total(operation.f(*part)), None

        return lax.scan(step, 0.0, (*differentiated, *fixed))[0]

    actual = jax.jit(jax.grad(loss))(args[:count], args[count:])
    each = [expected(operation)(*(a[i] for a in args))[1] for i in range(COPIES)]
    assert_all_close(tuple(actual), stacked(each))


def loss_of(outputs):
    """`total`, in NumPy."""
    leaves = [np.asarray(y) for y in jax.tree.leaves(outputs)]
    return sum(np.sin(y).sum() for y in leaves if y.dtype.kind == "f")


@every_operation
def test_finite_differences(operation):
    """To second order: forward over reverse, and reverse over reverse the same."""
    args = operation.arguments()
    f = lambda *args: operation.f(*args, *operation.fixed)
    rng = np.random.default_rng(9)
    direction = tuple(normal(rng, *a.shape) for a in args)

    @jax.jit
    def both_ways(args, direction):
        slope = gradients(operation, f)
        value, along = jax.linearize(slope, *args)

        def projected(*args):
            return sum(map(jnp.vdot, slope(*args), direction))

        return value, along(*direction), jax.grad(projected, tuple(range(len(args))))(*args)

    value, forward, reverse = both_ways(args, direction)
    (_, slope), *around = (
        expected(operation)(
            *(np.asarray(a) + step * np.asarray(d) for a, d in zip(args, direction, strict=True)),
            *operation.fixed,
        )
        for step in (0, STEP, -STEP)
    )
    assert_all_close(value, slope)
    assert_all_close(forward, reverse)

    (after, slope_after), (before, slope_before) = around
    difference = (loss_of(after) - loss_of(before)) / (2 * STEP)
    along = sum(map(np.vdot, slope, direction))
    np.testing.assert_allclose(along, difference, rtol=1e-6, atol=1e-6)
    for second, high, low in zip(forward, slope_after, slope_before, strict=True):
        difference = (np.asarray(high) - np.asarray(low)) / (2 * STEP)
        assert_close(second, difference, tolerance=1e-6)


def new_rules_are_on():
    """Whether custom_vjp is JAX's newer one: what a call of it becomes bears its name."""
    return "CustomVJPTraced" in str(jax.make_jaxpr(cnnvjp.relu)(jnp.ones(3)))


def test_the_flag_takes_effect():
    assert new_rules_are_on() == (os.environ.get("JAX_CUSTOM_VJP3") == "1")


@pytest.mark.versions(only=True)
@pytest.mark.skipif(not hasattr(jax.config, "jax_custom_vjp3"), reason="since JAX 0.10")
@pytest.mark.skipif("JAX_CUSTOM_VJP3" in os.environ, reason="is such a run")
@pytest.mark.parametrize("part", ["flag or jit or checkpoint", "vmap", "scan or differences"])
def test_under_the_new_custom_vjp(part):
    """This file again, in a process in which the flag is set before JAX is imported."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", part, __file__]
    run = subprocess.run(
        command,
        env={**os.environ, "JAX_CUSTOM_VJP3": "1"},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert run.returncode == 0, run.stdout[-5000:]
