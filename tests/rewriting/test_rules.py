"""Rules by choice: `explicit(f, rules=…)`, and those of `cnnvjp.rules` against their formulas."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checker import assert_close, distinct, message, normal
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import cnnvjp
from cnnvjp import explicit
from cnnvjp.rules import (
    deconv_relu,
    feedback_alignment,
    guided_relu,
    lrp_epsilon,
    straight_through,
)

NHWC = ("NHWC", "HWIO", "NHWC")


def seven(operation):
    """The operation with a wrong derivative: 7 for every entry of every argument."""

    def ruled(*args, **options):
        count = sum(isinstance(arg, jax.Array) for arg in args)

        @jax.custom_vjp
        def with_rule(*arrays):
            return operation(*arrays, *args[count:], **options)

        def backward(arrays, _):
            return tuple(jnp.full_like(a, 7) for a in arrays)

        with_rule.defvjp(lambda *arrays: (with_rule(*arrays), arrays), backward)
        return with_rule(*args[:count])

    return ruled


def slope(f, x, rules):
    """The values and the gradient of the sum, by chosen rules."""
    ruled = explicit(f, rules=rules)
    assert_close(ruled(x), f(x))
    return jax.grad(lambda x: ruled(x).sum())(x)


def reported(f, rules, *args):
    reports = []
    jax.eval_shape(explicit(f, rules=rules, report=reports.append), *args)
    return reports[0].findings


# ------------------------------------------------------------------------------------------
# Keys
# ------------------------------------------------------------------------------------------

OF_JAX = [
    jax.nn.relu, jax.nn.relu6, jax.nn.silu, jax.nn.gelu, functools.partial(jax.nn.gelu, approximate=False),
    jax.nn.elu, jax.nn.leaky_relu, jax.nn.softplus, jax.nn.sigmoid, jax.nn.hard_swish, jax.nn.softmax,
    jnp.tanh, lax.tanh, jnp.sign, lax.sign, jnp.round, jax.jit(lambda x: x * x),
]  # fmt: skip


@pytest.mark.versions
@pytest.mark.parametrize("function", OF_JAX, ids=lambda f: getattr(f, "__name__", "partial"))
def test_functions_of_jax(rng, function):
    """Whatever a program shows of them: a name, or nothing but their equations."""
    x = normal(rng, 3, 4)
    assert (slope(lambda x: function(2 * x) + function(function(x)), x, {function: seven(function)}) == 21).all()  # fmt: skip


def weights(*shape):
    return normal(np.random.default_rng(1), *shape)


OURS = [
    (cnnvjp.relu, (), {}),
    (cnnvjp.leaky_relu, (), dict(negative_slope=0.25)),
    (cnnvjp.elu, (), dict(alpha=0.5)),
    (cnnvjp.gelu, (), dict(approximate=False)),
    (cnnvjp.softmax, (), dict(axis=1)),
    (cnnvjp.prelu, (weights(4),), {}),
    (cnnvjp.add_bias, (weights(4),), {}),
    (cnnvjp.dense, (weights(4, 3),), {}),
    (cnnvjp.conv, (weights(3, 3, 4, 2),), {}),
    (cnnvjp.conv, (weights(3, 2, 2, 2),), dict(stride=2, padding=((1, 0), (2, 1)), dilation=(1, 2), groups=2, flip_kernel=True)),
    (cnnvjp.conv_transpose, (weights(3, 3, 2, 4),), dict(stride=2, output_size=(14, 13))),
    (cnnvjp.max_pool, (2,), {}),
    (cnnvjp.max_pool, ((3, 2),), dict(stride=1, ties="split", padding=1)),
    (cnnvjp.max_pool, (2,), dict(stride=3, ceil_mode=True)),
    (cnnvjp.min_pool, (3,), dict(dilation=2, stride=1)),
    (cnnvjp.sum_pool, ((2, 2),), {}),
    (cnnvjp.avg_pool, (3,), dict(stride=2, padding=1, count_include_pad=False)),
    (cnnvjp.lp_pool, (2,), dict(p=3)),
    (cnnvjp.layer_norm, (weights(4), weights(4)), dict(eps=0.1)),
    (cnnvjp.group_norm, (weights(4), weights(4), 2), {}),
]  # fmt: skip


@pytest.mark.versions
@pytest.mark.parametrize("function, rest, options", OURS, ids=lambda v: getattr(v, "__name__", ""))
def test_operations_of_ours(rng, function, rest, options):
    """Found with the options that they were called with, and with no more than those."""
    x, seen = normal(rng, 2, 6, 6, 4), []

    def rule(*args, **options):
        seen.append(options)
        return seven(function)(*args, **options)

    assert (slope(lambda x: function(x, *rest, **options), x, {function: rule}) == 7).all()
    given = {name: value for name, value in seen[0].items() if name not in options}
    assert set(given) <= {"groups", "spatial_ndim", "output_size"}


@pytest.mark.parametrize("under", [jax.jit, jax.checkpoint, lambda f: lambda x: lax.map(f, x[None])[0], jax.vmap])  # fmt: skip
def test_programs_within_programs(rng, under):
    x = normal(rng, 3, 4)
    for function in (cnnvjp.relu, jax.nn.relu, jax.nn.gelu, lax.sign):
        assert (slope(under(function), x, {function: seven(function)}) == 7).all()


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_meshes(rng, kind):
    """A compiled function notes the mesh that is set, and is found with another and with none."""
    x, rules = normal(rng, 4, 3), {jax.nn.silu: seven(jax.nn.silu)}
    assert (slope(jax.nn.silu, x, rules) == 7).all()
    mesh = jax.make_mesh((2,), ("data",), (kind,), devices=jax.devices()[:2])
    with jax.set_mesh(mesh) if hasattr(jax, "set_mesh") else jax.sharding.use_mesh(mesh):
        x = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
        assert (jax.grad(lambda x: explicit(jax.nn.silu, rules=rules)(x).sum())(x) == 7).all()


def test_shard_map(rng):
    mesh = jax.make_mesh((2,), ("data",), (AxisType.Auto,), devices=jax.devices()[:2])
    parts = PartitionSpec("data")
    f = jax.shard_map(jax.nn.relu, mesh=mesh, in_specs=parts, out_specs=parts)
    rules = {jax.nn.relu: guided_relu}
    x = distinct(rng, 4, 3)
    got = jax.jit(jax.grad(lambda x: -explicit(f, rules=rules)(x).sum()))(x)
    assert_close(got, jnp.zeros_like(x))


def test_what_explicit_has_replaced(rng):
    """A rule for one of our operations is one for lax's, which it computes."""
    x, w = normal(rng, 2, 6, 6, 4), weights(3, 3, 4, 2)

    def f(x):
        y = lax.conv_general_dilated(x, w, (2, 2), "SAME", dimension_numbers=NHWC)
        return lax.reduce_window(y, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 1, 1, 1), "VALID")

    assert (slope(f, x, {cnnvjp.conv: seven(cnnvjp.conv)}) == 7).all()
    one, other = reported(f, {cnnvjp.conv: seven(cnnvjp.conv)}, x)
    assert (one.operation, one.rule) == ("conv_general_dilated", "ruled") and "by ruled" in str(one)
    assert (other.operation, other.rule, other.replaced) == ("reduce_window_max", "", True)
    stock = lax.conv_general_dilated
    assert (slope(f, x, {stock: seven(stock)}) == 7).all()


def test_products_with_their_options(rng):
    x, seen = normal(rng, 2, 4), []

    def rule(x, w, dimension_numbers, **options):
        seen.append((dimension_numbers, options))
        return seven(lax.dot_general)(x, w, dimension_numbers, **options)

    f = lambda x: jnp.dot(x, weights(4, 3), precision="highest")
    assert (slope(f, x, {lax.dot_general: rule}) == 7).all()
    assert seen[0][0] == (((1,), (0,)), ((), ())) and "precision" in seen[0][1]


def test_predicates(rng):
    """One layer by its scope, or by the line that calls it."""
    x = normal(rng, 3)

    def f(x):
        with jax.named_scope("first"):
            x = jax.jit(jax.nn.relu)(x + 9)
        with jax.named_scope("second"):
            return jax.nn.relu(cnnvjp.relu(x))

    chosen = lambda finding: finding.operation == "relu" and "second" in finding.scope
    one, two = reported(f, {chosen: guided_relu}, x)
    assert [one.scope, two.scope] == ["second", "second"]
    chosen = lambda finding: finding.operation == "relu" and "first" in finding.scope
    (one,) = reported(f, {chosen: guided_relu}, x)
    assert "first" in one.scope and "test_rules.py" in one.source
    shapes = lambda finding: (
        finding.operation == "add" and finding.operands == ("float64[3]", "float64[]")
    )
    (one,) = reported(f, {shapes: lambda x, y: x + y}, x)
    assert one.operation == "add"
    many = lambda finding: finding.operation == "dot_general" and "float64[3,3]" in finding.operands
    rules = {many: feedback_alignment(lax.dot_general, jax.random.key(0))}
    (one,) = reported(lambda x: weights(2, 3) @ (weights(3, 3) @ x), rules, x)
    assert one.rule == "feedback_alignment"


def test_several_rules(rng):
    x = normal(rng, 3)
    f = lambda x: jnp.sign(jax.nn.relu(x)) + jnp.round(x)
    rules = {sign: straight_through(sign) for sign in (jnp.sign, jnp.round)}
    names = [finding.rule for finding in reported(f, rules, x)]
    assert names == ["straight_through", "straight_through (2)"]
    (finding,) = reported(f, {(cnnvjp.relu, jax.nn.relu): guided_relu}, x)  # any of these
    assert finding.rule == "guided_relu"


def test_a_program_is_compiled_once(rng):
    """What is called twice is one program still, also at the next call."""
    block = jax.jit(lambda x: jax.nn.relu(x) * 2)
    ruled = explicit(lambda x: block(block(x)), rules={jax.nn.relu: guided_relu})
    x = normal(rng, 3)
    calls = [e for _ in range(2) for e in jax.make_jaxpr(ruled)(x).eqns]
    assert len(calls) == 4 and len({id(e.params["jaxpr"]) for e in calls}) == 1


@pytest.mark.parametrize("weak", [True, False])
def test_weak_types(weak):
    x = 2.0 if weak else jnp.float64(2)
    f = explicit(lambda x: jax.nn.relu(x), rules={jax.nn.relu: lambda x: jnp.float64(x)})
    assert f(x).weak_type == jax.nn.relu(x).weak_type == weak


# ------------------------------------------------------------------------------------------
# Wrong rules
# ------------------------------------------------------------------------------------------

X = jnp.ones((2, 3))
WRONG = [
    ([guided_relu], TypeError, r"rules: got list; it must be a mapping"),
    ({3: guided_relu}, TypeError, r"rules: got the key 3; it must be an operation of this library"),
    ({(): guided_relu}, TypeError, r"rules: got the key \(\); it must be an operation"),
    ({jax.nn.relu: 3}, TypeError, r"rules: got int for relu; it must be a function of the same"),
    ({cnnvjp.resize: guided_relu}, TypeError, r"rules: got the key resize, which has no one place.* conv,"),
    ({lambda finding: "yes": guided_relu}, TypeError, r"rules: got str from the predicate <lambda>; it must return a bool"),
    ({jax.nn.relu: lambda x: x.sum()}, ValueError, r"rules: got float64\[\] from <lambda> in the place of relu\(float64\[2,3\]\); it must be float64\[2,3\]"),
    ({jax.nn.relu: lambda x: (x, x)}, ValueError, r"rules: got float64\[2,3\], float64\[2,3\] from"),
    ({jax.nn.relu: lambda x: x.astype("float32")}, TypeError, r"rules: got float32\[2,3\] from .*; it must be float64\[2,3\]"),
    ({jax.nn.silu: guided_relu}, ValueError, r"rules: nothing in f is silu, for which guided_relu was given; f shows .*relu"),
    ({cnnvjp.conv: cnnvjp.conv}, ValueError, r"rules: nothing in f is conv, for which conv was given"),
    ({lambda finding: False: guided_relu}, ValueError, r"rules: nothing in f is <lambda>"),
]  # fmt: skip


@pytest.mark.parametrize("rules, kind, text", WRONG, ids=range(len(WRONG)))
def test_wrong_rules(rules, kind, text):
    with pytest.raises(kind, match=text):
        explicit(lambda x: jax.nn.relu(x), rules=rules)(X)


def test_what_cannot_be_replaced():
    w = jnp.ones((2, 2, 3, 1))
    with pytest.raises(ValueError) as error:
        explicit(jax.vmap(lambda x: cnnvjp.conv(x, w)), rules={cnnvjp.conv: cnnvjp.conv})(jnp.ones((2, 1, 4, 4, 3)))  # fmt: skip
    assert "put the vmap around explicit" in message(error)

    def closing(y):
        return explicit(jax.nn.relu, rules={jax.nn.relu: lambda x: x + y})(X)

    with pytest.raises(ValueError, match="closes over an array that is traced"):
        jax.jit(closing)(X)
    with pytest.raises(TypeError) as error:
        explicit(jax.nn.relu, rules={jax.nn.relu: lambda x, y: x})(X)
    assert any("in the place of relu" in note for note in error.value.__notes__)


# ------------------------------------------------------------------------------------------
# The rules of cnnvjp.rules
# ------------------------------------------------------------------------------------------


def pulled(f, dy, *args):
    """What goes back through f."""
    return jax.vjp(f, *args)[1](dy)


def test_rules_of_relu(rng):
    x, dy = distinct(rng, 5, 6), normal(rng, 5, 6)
    x = x.at[0, 0].set(0)
    (guided,), (deconvolved,) = pulled(guided_relu, dy, x), pulled(deconv_relu, dy, x)
    for place in np.ndindex(5, 6):
        assert guided[place] == (dy[place] if x[place] > 0 and dy[place] > 0 else 0)
        assert deconvolved[place] == max(dy[place], 0)
    assert_close(guided_relu(x), jnp.maximum(x, 0))
    assert_close(deconv_relu(x), jnp.maximum(x, 0))
    assert jnp.isnan(guided_relu(jnp.nan)) and jnp.isnan(deconv_relu(jnp.nan))


def test_straight_through(rng):
    x, dy = jnp.array([-2.0, -1.0, 0.3, 1.0, 1.5]), jnp.arange(1.0, 6.0)
    assert_close(straight_through(jnp.sign)(x), jnp.sign(x))
    assert_close(pulled(straight_through(jnp.sign), dy, x)[0], dy)
    assert_close(
        pulled(straight_through(jnp.sign, bound=1), dy, x)[0], jnp.where(abs(x) <= 1, dy, 0)
    )


@pytest.mark.parametrize("shape, layer", [((4, 3), cnnvjp.dense), ((2, 2, 4, 3), cnnvjp.conv)])
def test_feedback_alignment(rng, shape, layer):
    """In place of w, B stands where dx is computed, and nowhere else."""
    x, w = normal(rng, 2, *(3,) * (len(shape) - 2), 4), normal(rng, *shape)
    key = jax.random.key(3)
    ruled = feedback_alignment(layer, key, scale=0.5)
    y = layer(x, w)
    dy = normal(rng, *y.shape)
    dx, dw = pulled(ruled, dy, x, w)
    assert_close(ruled(x, w), y)
    assert_close(dx, pulled(layer, dy, x, 0.5 * jax.random.normal(key, shape))[0])
    assert_close(dw, pulled(layer, dy, x, w)[1])
    default = pulled(feedback_alignment(layer, key), dy, x, w)[0]
    assert_close(default, dx * 2 / np.sqrt(np.prod(shape[:-1])))


def relevance(x, w, R, epsilon):
    """Bach et al. (2015), equation 58: R_i = Σ_j z_ij / (z_j + ε sign z_j) R_j, by loops."""
    z = [sum(x[i] * w[i, j] for i in range(len(x))) for j in range(len(R))]
    z = [z_j + (epsilon if z_j >= 0 else -epsilon) for z_j in z]
    return [sum(x[i] * w[i, j] / z[j] * R[j] for j in range(len(R))) for i in range(len(x))]


def test_lrp_against_its_equation(rng):
    x, w, R = normal(rng, 4), normal(rng, 4, 3), normal(rng, 3)
    dz = R / cnnvjp.dense(x, w)  # z · dz is the relevance of z
    for epsilon in (0.0, 0.1, 2.0):
        (dx, _) = pulled(lrp_epsilon(cnnvjp.dense, epsilon=epsilon), dz, x, w)
        assert_close(x * dx, np.array(relevance(x, w, R, epsilon)))


def digits_network(params, x):
    """In lax's operations, as other libraries' networks are."""
    y = lax.conv_general_dilated(x, params["w1"], (1, 1), "SAME", dimension_numbers=NHWC)
    y = lax.reduce_window(jax.nn.relu(y), -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    y = lax.conv_general_dilated(y, params["w2"], (1, 1), "VALID", dimension_numbers=NHWC)
    y = lax.reduce_window(jax.nn.relu(y), 0.0, lax.add, (1, 2, 2, 1), (1, 1, 1, 1), "VALID") / 4
    return jnp.dot(y.reshape(len(y), -1), params["w3"])


PARAMS = {"w1": weights(3, 3, 2, 3), "w2": weights(2, 2, 3, 4), "w3": weights(16, 5)}
LINEAR = {op: lrp_epsilon for op in (cnnvjp.conv, lax.dot_general, cnnvjp.sum_pool)}  # what sums


@pytest.mark.parametrize("epsilon", [0.0, 1e-9, 0.5])
def test_lrp_conserves_relevance(rng, epsilon):
    """What comes to the input is the logit, less what ε has taken up."""
    x = normal(rng, 1, 8, 8, 2)
    rules = {op: rule(op, epsilon=epsilon) for op, rule in LINEAR.items()}
    logit = lambda x: digits_network(PARAMS, x)[0, 2]
    value, slope = jax.value_and_grad(explicit(logit, rules=rules))(x)
    total = jnp.sum(x * slope)
    if epsilon == 0.5:
        assert abs(total) < 0.99 * abs(value)
    else:
        assert_close(total, value, tolerance=1e-7)
    if epsilon == 0:
        assert_close(slope, jax.grad(logit)(x))


def test_lrp_with_biases(rng):
    """The sum with the bias is one z, and the biases get the rest of the relevance."""
    x, w, b = normal(rng, 4), normal(rng, 4, 3), normal(rng, 3)
    layer = lambda x: cnnvjp.dense(x, w, b)
    rules = {cnnvjp.add_bias: lrp_epsilon(cnnvjp.add_bias, epsilon=0.1)}
    dz = jnp.ones(3)
    (dx,) = pulled(explicit(layer, rules=rules), dz, x)
    extended = relevance(np.append(x, 1), np.append(w, b[None], 0), layer(x) * dz, 0.1)
    assert_close(x * dx, np.array(extended[:-1]))


@pytest.mark.parametrize("rule", [lrp_epsilon, straight_through, lambda f: feedback_alignment(f, jax.random.key(0))])  # fmt: skip
def test_wrong_operations(rule):
    with pytest.raises(TypeError, match=r"operation: got int; it must be a function"):
        rule(3)


@pytest.mark.parametrize("call, name", [
    (lambda: lrp_epsilon(cnnvjp.dense, epsilon=-1.0), "epsilon"),
    (lambda: straight_through(jnp.sign, bound="a"), "bound"),
    (lambda: feedback_alignment(cnnvjp.dense, jax.random.key(0), scale=jnp.nan), "scale"),
])  # fmt: skip
def test_wrong_numbers(call, name):
    with pytest.raises((TypeError, ValueError), match=f"^{name}: got "):
        call()
