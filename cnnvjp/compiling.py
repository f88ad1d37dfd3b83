"""How programs are compiled for CPUs: with oneDNN, where XLA has it.

jaxlib carries oneDNN from 0.12 on, switched off. Programs that are compiled with it run most
convolutions at PyTorch's speed, which are oneDNN's too. Which formulations are fastest depends on
it: a program must be traced for it as well.
"""

import functools
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

import jax
from jax import lax
from jax.sharding import SingleDeviceSharding

from cnnvjp._lowering.settings import ONEDNN, compile_all_with_onednn, tracing_with_onednn

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def cpu_compiler_options() -> dict[str, bool]:
    """XLA's options with which this library's operations run fastest on CPUs.

    They are those that switch oneDNN on, for `jax.jit(..., compiler_options=...)`. With them
    alone the formulations stay those of a program without: `cnnvjp.jit` chooses them anew. JAX
    0.12 cannot keep such programs in its persistent compilation cache, and warns where it is used.

    Returns:
        The options if this jaxlib has oneDNN, as 0.12 has for x86-64; else {}.

    Example:
        >>> import jax, cnnvjp
        >>> step = jax.jit(lambda x: x + 1, compiler_options=cnnvjp.cpu_compiler_options())

    Source: the flags of XLA.
    """
    return dict(ONEDNN) if _has_onednn() else {}


def use_cpu_compiler_options() -> None:
    """Compiles every program of this process with `cpu_compiler_options()`.

    The formulations are chosen for them from now on, in `jax.jit` of any library too. It sets
    XLA_FLAGS and starts JAX's backends; where jaxlib has no oneDNN it does nothing. Call it before
    any computation, and after `jax.distributed.initialize` and the choice of devices.

    Raises:
        RuntimeError: if JAX has read XLA_FLAGS already.

    Example:
        >>> import cnnvjp
        >>> cnnvjp.use_cpu_compiler_options()  # doctest: +SKIP

    Source: the flags of XLA.
    """
    before = os.environ.get("XLA_FLAGS")
    flags = " ".join([before or "", *(f"--{name}={value}" for name, value in ONEDNN.items())])
    # A flag that XLA does not know would end this process: another one is asked first.
    asked = "import cnnvjp.compiling as c, sys; sys.exit(not c.calls_onednn({}))"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    answer = subprocess.run([sys.executable, "-c", asked], env=environment, capture_output=True)
    if answer.returncode != 0:
        return
    os.environ["XLA_FLAGS"] = flags
    if not calls_onednn({}):
        if before is None:
            del os.environ["XLA_FLAGS"]
        else:
            os.environ["XLA_FLAGS"] = before
        raise RuntimeError(
            "use_cpu_compiler_options: JAX has read XLA_FLAGS already; call it before any "
            "computation"
        )
    compile_all_with_onednn()


def jit(
    fun: Callable[Arguments, Result],
    *,
    compiler_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> Callable[Arguments, Result]:
    """`jax.jit`, with the compiler options that are fastest on CPUs and formulations for them.

    Inside another `jit`, which decides for the whole program, and under transformations it is
    `jax.jit` without them; so it is where JAX's default backend is not the CPU.

    Args:
        fun: the function.
        compiler_options: `cpu_compiler_options()` by default; {} for none.
        **options: as `jax.jit` has them.

    Returns:
        The compiled function, with the methods of `jax.jit`'s; `trace` is without the options.

    Raises:
        TypeError: if fun is none.

    Example:
        >>> import jax, jax.numpy as jnp, cnnvjp
        >>> x, w = jnp.ones((1, 8, 8, 4)), jnp.ones((3, 3, 4, 4))
        >>> cnnvjp.jit(lambda x, w: cnnvjp.conv(x, w).sum())(x, w)
        Array(5184., dtype=float32)

    Source: the flags of XLA.
    """
    if not callable(fun):
        raise TypeError(f"fun: got {type(fun).__name__}; it must be a function")
    plain = jax.jit(fun, **options)

    @functools.cache
    def chosen() -> tuple[Callable[..., Any], bool]:
        given = compiler_options
        if given is None:
            given = cpu_compiler_options() if jax.default_backend() == "cpu" else {}
        if not given:
            return plain, False
        # Without oneDNN its formulations are far slower, whatever the options say.
        with_onednn = ONEDNN.items() <= given.items() and _has_onednn()
        return jax.jit(fun, compiler_options=dict(given), **options), with_onednn

    @functools.wraps(fun)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        if _is_traced((args, kwargs)):
            return plain(*args, **kwargs)
        return in_context("__call__", *args, **kwargs)

    def in_context(method: str, *args: Any, **kwargs: Any) -> Any:
        compiled, with_onednn = chosen()
        call = getattr(compiled, method)
        if not with_onednn:
            return call(*args, **kwargs)
        with tracing_with_onednn():
            return call(*args, **kwargs)

    for method in ("lower", "_cache_size"):
        setattr(run, method, functools.partial(in_context, method))
    for method in ("trace", "eval_shape", "clear_cache"):  # `jax.export` takes what is traced
        setattr(run, method, getattr(plain, method))  # elsewhere, to compilers without oneDNN
    return run


def _is_traced(arguments: Any) -> bool:
    """Whether this is part of another program: of its arguments, or all that is computed now."""
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(arguments)):
        return True
    return isinstance(lax.neg(1.0), jax.core.Tracer)


@functools.cache
def _has_onednn() -> bool:
    """Whether XLA has the options: if not, it says so, since they are not in XLA_FLAGS."""
    try:
        return calls_onednn(ONEDNN)
    except RuntimeError:
        return False


def calls_onednn(options: Mapping[str, Any]) -> bool:
    """Whether a convolution that is compiled for the CPU with some options calls oneDNN."""
    (device, *_) = jax.local_devices(backend="cpu")

    def array(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, "float32", sharding=SingleDeviceSharding(device))

    layout = ("NDHWC", "DHWIO", "NDHWC")
    convolve = jax.jit(
        lambda x, w: lax.conv_general_dilated(x, w, (1, 1, 1), "VALID", dimension_numbers=layout)
    )
    lowered = convolve.lower(array(1, 1, 8, 8, 16), array(1, 3, 3, 16, 16))
    compiled = lowered.compile(compiler_options=dict(options))
    return "__onednn$convolution" in (compiled.as_text() or "")
