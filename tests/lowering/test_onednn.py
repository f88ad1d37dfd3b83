"""Programs that are compiled with oneDNN: which they are, what they compute, what JAX keeps."""

import functools
import os
import re
import subprocess
import sys

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from checker import assert_close, assert_trees_close, normal
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from test_cpu_formulations import CASES, lax_convolution, setup

import cnnvjp
from cnnvjp import conv, cpu_compiler_options, models, train
from cnnvjp._lowering.cpu import onednn
from cnnvjp._lowering.settings import ONEDNN, tracing_with_onednn

pytestmark = pytest.mark.cpu
needs_onednn = pytest.mark.skipif(not cpu_compiler_options(), reason="this jaxlib has no oneDNN")


def passes(x, w, dy, **options):
    """The forward pass and both gradients of a convolution."""
    y, pullback = jax.vjp(lambda x, w: conv(x, w, **options), x, w)
    return y, *pullback(dy)


def looped(run, *arrays):
    return lax.map(lambda parts: run(*parts), arrays)


@pytest.mark.versions
@pytest.mark.parametrize("case", CASES, ids=map(str, range(len(CASES))))
def test_formulations(rng, case):
    """Each against lax, for every geometry, compiled with oneDNN where it is there."""
    x, w, dy, groups, _, window, _ = setup(rng, case, "float32")

    def ours(x, w, dy):
        y = onednn.correlate(x, w, window, groups, None)
        dx = onednn.input_gradient(dy, w, window, groups, None)
        return (y, dx) if groups > 1 else (y, dx, onednn.kernel_gradient(x, dy, window, None))

    y, pullback = jax.vjp(functools.partial(lax_convolution, window=window, groups=groups), x, w)
    found = jax.jit(ours, compiler_options=cpu_compiler_options())(x, w, dy)
    assert_trees_close(found, (y, *pullback(dy))[: len(found)], tolerance=1e-4)


def test_one_function_is_traced_for_both(rng):
    """A program that JAX keeps is taken again only where it is compiled in the same way."""
    f = jax.jit(lambda x, w: conv(x, w, padding="SAME"))
    x, w = normal(rng, 1, 8, 8, 4).astype("float32"), normal(rng, 3, 3, 4, 4).astype("float32")

    def images():
        return "5" if re.search(r"f32\[1,1,8,8,4\]", str(f.trace(x, w).jaxpr)) else "4"

    found = images()
    with tracing_with_onednn():
        found += images()
    assert found + images() == "454"


@pytest.mark.versions
@needs_onednn
def test_every_convolution_is_its(rng, monkeypatch):
    """Dense, strided, grouped, depthwise, and in a loop: none is left to the slow general one."""
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    shapes = [((8, 8, 8, 16), (3, 3, 16, 16), 1), ((8, 8, 8, 16), (3, 3, 1, 16), 16)]
    for shape, kernel, groups in [*shapes, ((8, 8, 8, 16), (3, 3, 4, 16), 4)]:
        for stride in (1, 2):
            x, w = (normal(rng, *s).astype("float32") for s in (shape, kernel))
            f = functools.partial(conv, stride=stride, padding=1, groups=groups)
            dy = jnp.ones(jax.eval_shape(f, x, w).shape, "float32")
            run = functools.partial(passes, stride=stride, padding=1, groups=groups)
            twice = [jnp.stack([a, a]) for a in (x, w, dy)]
            for g, args in ((run, (x, w, dy)), (functools.partial(looped, run), twice)):
                text = cnnvjp.jit(g).lower(*args).compile().as_text()
                own = stride > 1 and groups == 16  # a strided depthwise input gradient
                assert text.count("__onednn$convolution") >= 1 + (not own)
                assert "b012f" not in text  # a convolution with three axes
                assert_trees_close(cnnvjp.jit(g)(*args), jax.jit(g)(*args), tolerance=1e-5)


@pytest.mark.versions
@needs_onednn
@pytest.mark.parametrize("groups", [1, 2, 8, 16])
def test_a_divided_batch_stays_where_it_is(rng, groups):
    mesh = jax.make_mesh((2,), ("data",), (AxisType.Auto,), devices=jax.devices()[:2])
    divided = NamedSharding(mesh, PartitionSpec("data"))
    x, w = (
        normal(rng, *shape).astype("float32") for shape in ((8, 7, 7, 16), (3, 3, 16 // groups, 16))
    )
    x = jax.device_put(x, divided)
    run = functools.partial(passes, padding=1, groups=groups)
    text = cnnvjp.jit(run).lower(x, w, x).compile().as_text()
    assert "__onednn$convolution" in text
    assert "all-gather" not in text
    assert_trees_close(cnnvjp.jit(run)(x, w, x), jax.jit(run)(x, w, x), tolerance=1e-5)


@pytest.mark.versions
def test_jit_is_part_of_what_is_around_it(rng):
    """In another program, in a loop, and under transformations it is `jax.jit`."""
    x = normal(rng, 3)
    f = cnnvjp.jit(lambda x: x**2)
    one = jnp.ones(())
    assert_close(f(x), x**2)
    assert_close(jax.jit(lambda x: f(x) + f(one))(x), x**2 + 1)
    assert_close(jax.grad(lambda x: f(x).sum())(x), 2 * x)
    assert_close(jax.vmap(f)(x), x**2)
    assert_close(lax.scan(lambda c, _: (f(c), None), x, None, 2)[0], x**4)
    donated = cnnvjp.jit(lambda x: x + 1, donate_argnums=0)
    given = jnp.array(x)
    assert_close(donated(given), x + 1)
    assert given.is_deleted()
    assert cnnvjp.jit(lambda x: x, compiler_options={}).lower(x).compile() is not None
    with pytest.raises(TypeError, match="^fun: got int; it must be a function$"):
        cnnvjp.jit(3)


def test_options_without_onednn_change_no_formulation(rng, monkeypatch):
    """A jaxlib may take the options, as that of JAX 0.10 does, and have nothing behind them."""
    monkeypatch.setattr("cnnvjp.compiling._has_onednn", lambda: False)
    x, w = normal(rng, 1, 8, 8, 4).astype("float32"), normal(rng, 3, 3, 4, 4).astype("float32")
    lowered = cnnvjp.jit(conv, compiler_options=ONEDNN).lower(x, w)
    assert "1x1x8x8x4" not in lowered.as_text()


@pytest.mark.versions
def test_an_exported_program_is_for_any_compiler(rng):
    x, w = normal(rng, 1, 8, 8, 4).astype("float32"), normal(rng, 3, 3, 4, 4).astype("float32")
    exported = jax.export.export(cnnvjp.jit(conv))(x, w)
    assert "1x1x8x8x4" not in exported.mlir_module()
    assert_close(exported.call(x, w), conv(x, w), tolerance=1e-5)


@pytest.mark.versions
@needs_onednn
@pytest.mark.parametrize("name", ["lenet5", "resnet"])
def test_training_steps_agree(name):
    # Of another key, one of a rectifier's inputs is so near to 0 that rounding gives it a sign.
    model, optimizer, key = getattr(models, name)(), optax.sgd(0.1), jax.random.key(1)
    with jax.enable_x64(False):
        x = jax.random.normal(key, (4, 16, 16, 3), "float32")
        t = jnp.arange(4, dtype="int32")
        found = []
        for options in (None, {}):
            state = train.create(key, model, optimizer, x.shape[1:])
            step = train.make_train_step(
                model, cnnvjp.softmax_cross_entropy, optimizer, compiler_options=options
            )
            state, metrics = step(state, (x, t), key)
            found.append((state.params, metrics))
    assert_trees_close(*found, tolerance=1e-4)


PROGRAM = """
import sys, jax, jax.numpy as jnp, cnnvjp
if sys.argv[1] == "late":
    jax.jit(lambda x: x + 1)(jnp.ones(3))
try:
    cnnvjp.use_cpu_compiler_options()
except RuntimeError as error:
    print("RuntimeError:", error)
x, w = jnp.ones((8, 8, 8, 16)), jnp.ones((3, 3, 16, 16))
print("__onednn$convolution" in jax.jit(cnnvjp.conv).lower(x, w).compile().as_text())
"""


@pytest.mark.versions
def test_a_whole_process():
    """XLA_FLAGS are set before JAX reads them, or there is an error; never is the process ended."""
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    has = bool(cpu_compiler_options())
    for when in ("early", "late"):
        run = subprocess.run(
            [sys.executable, "-c", PROGRAM, when], env=environment, capture_output=True, text=True
        )
        assert run.returncode == 0, run.stderr
        late = when == "late" and has
        assert ("call it before any computation" in run.stdout) == late
        assert run.stdout.split()[-1] == str(has and not late)


def test_the_options_are_those_that_it_has():
    assert cpu_compiler_options() in ({}, ONEDNN)
    options = cpu_compiler_options()
    options["changed"] = True
    assert "changed" not in cpu_compiler_options()
    assert np.all(jax.jit(lambda x: x, compiler_options=cpu_compiler_options())(jnp.ones(2)) == 1)
