"""`implicit`: the same without our rules, differentiated by JAX alone, in both modes.

So it is one more judge of every rule, at random arguments and on kinks and ties.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checker import assert_close, count_primitives, distinct, normal
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.test_util import check_grads
from operation_table import IDS, OPERATIONS, gradients, total

import cnnvjp
from cnnvjp import explicit, implicit

RULES = ("custom_vjp_call",)
# Kinks and ties: below and between them, 0, where most pieces meet, and those of hard_swish, relu6.
KINKS = [-3.0, 0.0, 3.0, 6.0]
SMOOTH = {"standardize", "batch_norm_inference"}  # but where they divide by nothing


@pytest.mark.versions
@pytest.mark.parametrize("operation", OPERATIONS, ids=IDS)
def test_every_rule_against_jax(operation):
    """Ours, in reverse, beside JAX's derivative in forward mode and its transpose."""

    def loss(*args):
        return total(operation.f(*args, *operation.fixed))

    @jax.jit
    def both(args, direction):
        y, push = jax.linearize(implicit(loss), *args)
        pull = jax.linear_transpose(push, *args)
        ours = gradients(operation, lambda *args: operation.f(*args, *operation.fixed))(*args)
        return (loss(*args), ours), (y, pull(jnp.ones_like(y))), push(*direction)

    assert count_primitives(jax.make_jaxpr(implicit(loss))(*operation.arguments()).jaxpr, *RULES) == 0  # fmt: skip
    rng = np.random.default_rng(1)
    on_kinks = tuple(jnp.asarray(rng.choice(KINKS, shape)) for shape in operation.shapes)
    direction = tuple(normal(rng, *shape) for shape in operation.shapes)
    for args in (operation.arguments(),) + ((on_kinks,) if operation.name not in SMOOTH else ()):
        (y, dx), expected, along = both(args, direction)
        for got, want in zip(jax.tree.leaves((y, dx)), jax.tree.leaves(expected), strict=True):
            assert_close(got, want, tolerance=1e-11)
        parts = [float(jnp.vdot(a, b)) for a, b in zip(dx, direction, strict=True)]
        assert abs(along - sum(parts)) <= 1e-11 * (1 + sum(map(abs, parts)))


# ------------------------------------------------------------------------------------------
# Programs within programs
# ------------------------------------------------------------------------------------------


def network(w, x):
    """Values of every kind of rule: chosen by the platform, by a winner, by an overflow."""
    y = cnnvjp.max_pool(cnnvjp.relu(cnnvjp.conv(x, w, stride=2, padding=1)), 2, stride=1)
    y = cnnvjp.layer_norm(y, jnp.ones(y.shape[-1]), jnp.zeros(y.shape[-1]))
    return jnp.sum(jnp.sin(cnnvjp.global_avg_pool(y)))


def in_scan(w, x):
    return lax.scan(lambda total, x: (total + network(w, x[None]), None), jnp.zeros(()), x)[0]


def in_while(w, x):
    """Its length is known, so that it can be differentiated in reverse too."""
    return lax.fori_loop(0, 2, lambda _, total: total + network(w, x), jnp.zeros(()))


def in_branches(w, x):
    either = lax.cond(x[0, 0, 0, 0] > 9, lambda w, x: w.sum(), network, w, x)
    return either + lax.switch(1, [lambda w, x: x.sum(), network], w, x)


def in_checkpoint(w, x):
    return jax.checkpoint(network)(w, x) + jax.checkpoint(jax.jit(network))(w, x)


def in_vmap(w, x):
    alone = jax.vmap(lambda x: network(w, x[None]))(x).sum()
    return alone + jax.vmap(network, (0, None))(jnp.stack([w, 2 * w]), x).sum()


def in_another(w, x):
    """A network of lax's operations, whose rules `explicit` brings in."""
    numbers = ("NHWC", "HWIO", "NHWC")
    f = explicit(lambda w, x: lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=numbers))  # fmt: skip
    return jnp.sum(jnp.sin(f(w, x)))


PROGRAMS = [network, jax.jit(network), in_scan, in_while, in_branches, in_checkpoint, in_vmap, in_another]  # fmt: skip


def arguments(rng, batch=2):
    return normal(rng, 3, 3, 3, 4), normal(rng, batch, 6, 6, 3)


@pytest.mark.versions
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.__name__)
def test_forward_mode_through_programs(rng, program):
    """Along a direction, beside our gradient."""
    args, direction = arguments(rng), arguments(rng)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(program, args, direction)

    @jax.jit
    def both(args, direction):
        y, along = jax.jvp(implicit(program), args, direction)
        return (y, along), jax.value_and_grad(program, (0, 1))(*args)

    (y, along), (value, gradient) = both(args, direction)
    assert_close(y, value)
    assert_close(along, sum(map(np.vdot, gradient, direction)), tolerance=1e-10)


def test_a_loop_that_only_forward_mode_goes_through(rng):
    def powers(x, n):
        step = lambda state: (state[0] + 1, cnnvjp.softplus(state[1]) * x)
        return lax.while_loop(lambda state: state[0] < n, step, (0, x))[1]

    x = normal(rng, 3)
    along = jax.jvp(implicit(lambda x: powers(x, 2)), (x,), (jnp.ones(3),))[1]
    f = jax.nn.softplus
    assert_close(along, jax.vmap(jax.grad(lambda x: f(f(x) * x) * x))(x), tolerance=1e-12)


@pytest.mark.versions
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_shard_map(rng, kind):
    args, direction = arguments(rng), arguments(rng)
    mesh = jax.make_mesh((2,), ("data",), (kind,), devices=jax.devices()[:2])
    whole, parts = PartitionSpec(), PartitionSpec("data")

    def part(w, x):
        return lax.psum(network(w, x), "data")

    with jax.set_mesh(mesh) if hasattr(jax, "set_mesh") else jax.sharding.use_mesh(mesh):
        mapped = jax.shard_map(part, mesh=mesh, in_specs=(whole, parts), out_specs=whole)
        args, direction = (
            tuple(jax.device_put(a, NamedSharding(mesh, s)) for a, s in zip(arrays, (whole, parts), strict=True))
            for arrays in (args, direction)
        )  # fmt: skip
        along = jax.jit(lambda args, d: jax.jvp(implicit(mapped), args, d)[1])(args, direction)
        gradient = jax.jit(jax.grad(mapped, (0, 1)))(*args)
    assert_close(along, sum(map(np.vdot, gradient, direction)), tolerance=1e-10)


def test_check_grads_and_jacobians(rng):
    x, w = normal(rng, 1, 5, 5, 2), normal(rng, 3, 3, 2, 2)

    def f(x, w):
        return cnnvjp.silu(cnnvjp.conv(x, w))

    check_grads(implicit(f), (x, w), order=2)  # in both modes
    forward, reverse = jax.jit(lambda w: (jax.jacfwd(lambda w: implicit(f)(x, w))(w), jax.jacrev(lambda w: f(x, w))(w)))(w)  # fmt: skip
    assert_close(forward, reverse, tolerance=1e-11)


def test_winners_that_share(rng):
    """The primal function of such a pooling routes to the first winner alone."""
    x = jnp.array([2.0, 2.0, 1.0, 1.0]).reshape(4, 1)
    pool = functools.partial(cnnvjp.max_pool, window=(4,), ties="split")
    slope = jax.jvp(implicit(pool), (x,), (jnp.arange(1.0, 5.0).reshape(4, 1),))[1]
    assert slope.ravel() == 1.5


# ------------------------------------------------------------------------------------------
# What stays
# ------------------------------------------------------------------------------------------


@jax.custom_vjp
def own(x):
    return cnnvjp.relu(x) * 2


own.defvjp(lambda x: (own(x), None), lambda _, dy: (7 * dy,))
renamed = jax.custom_vjp(cnnvjp.relu)
renamed.defvjp(lambda x: (cnnvjp.relu(x), None), lambda _, dy: (7 * dy,))


@pytest.mark.parametrize("f", [own, renamed])
def test_rules_of_a_users_own_stay(rng, f):
    x = distinct(rng, 6)
    assert (jax.grad(lambda x: implicit(f)(x).sum())(x) == 7).all()
    assert_close(implicit(f)(x), f(x))
    jaxpr = jax.make_jaxpr(implicit(f))(x).jaxpr
    assert count_primitives(jaxpr, *RULES) == 1
    (call,) = jaxpr.eqns
    inside = call.params["call_jaxpr"]
    assert count_primitives(getattr(inside, "jaxpr", inside), *RULES) == 0


def test_chosen_rules_stay(rng):
    x = distinct(rng, 6)
    f = explicit(lambda x: -jax.nn.relu(x).sum(), rules={jax.nn.relu: cnnvjp.rules.guided_relu})
    assert_close(jax.grad(implicit(f))(x), jnp.zeros(6))


def test_a_program_without_our_operations_is_the_same(rng):
    x = normal(rng, 3)
    f = jax.jit(lambda x: jax.nn.relu(jnp.sin(x)) @ x)
    assert str(jax.make_jaxpr(f)(x)) == str(jax.make_jaxpr(implicit(f))(x))


def test_arguments_are_those_of_the_function(rng):
    x = normal(rng, 2, 4, 4, 1)

    def f(tree, *, pool):
        return {"y": pool(tree["x"], 2), "n": 3}

    result = implicit(f)({"x": x}, pool=cnnvjp.avg_pool)
    assert_close(result["y"], cnnvjp.avg_pool(x, 2))
    assert implicit(f).__name__ == "f" and result["n"] == 3
