"""`implicit`: a function without the rules written here."""

from collections.abc import Callable

import jax
from jax.extend import core

from cnnvjp._jax_versions import forward_pass
from cnnvjp.rewriting._jaxprs import (
    Place,
    Replacement,
    Rewriter,
    finding_of,
    in_place_of,
    is_ours,
    name_and_file,
)
from cnnvjp.rewriting._lax_calls import types_of
from cnnvjp.rewriting._traced import Arguments, Result, check_function, traced


def implicit(f: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Takes this library's rules out of a function, so that JAX alone differentiates it.

    The opposite of `explicit`. The function is traced, and in its jaxpr each operation of this
    library becomes what its forward pass computes, through jit, scan, while, cond, checkpoint,
    vmap and shard_map. Values and gradients change by rounding alone, but for gradients at NaN
    and infinity and where a power of the numbers overflows.

    So forward mode works: `jax.jvp`, `jax.jacfwd`, `jax.linearize` and `check_grads` with its
    default modes raise JAX's TypeError on what has a `custom_vjp`, and not on `implicit(f)`.
    And each rule can be held against JAX's own derivative: `jax.grad(f)(x)` against
    `jax.grad(implicit(f))(x)`.

    A function's own `custom_vjp` stays, with the operations in its primal body taken out; so do
    the rules of `cnnvjp.rules`, which are no derivatives. What is a derivative already, as in
    `implicit(jax.grad(loss))`, was made by the rules: apply `implicit` first. It traces f at
    every call: put `jax.jit` around what is called often.

    Args:
        f: a function of any arguments, as in `explicit`.

    Returns:
        A function with f's arguments and results.

    Raises:
        TypeError: if f is not a function; when it is called, if f returns what is neither an
            array nor a number.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from cnnvjp import relu
        >>> x = jnp.array([-1.0, 2.0])
        >>> jax.jvp(implicit(relu), (x,), (jnp.ones(2),))[1]
        Array([0., 1.], dtype=float32)
        >>> jax.jacfwd(implicit(lambda x: relu(x) ** 2))(x)
        Array([[0., 0.],
               [0., 4.]], dtype=float32)

    Source: forward mode is that of JAX's own operations.
    """
    check_function("f", f)
    return traced(f, lambda closed: _IMPLICIT.rewritten(closed)[0])


def _taken_out(place: Place) -> Replacement | None:
    """The forward pass of one of our operations, in place of its core.

    Not the core's primal function: that may compute what JAX would differentiate otherwise, as
    where winners share a gradient. JAX differentiates forward passes for second derivatives.
    """
    equation = place.equation
    if not is_ours(equation):
        return None
    jaxpr, constants = forward_pass(equation)
    unused, results = equation.params["num_consts"], len(equation.outvars)

    def forward(*operands: jax.Array) -> list[jax.Array]:
        closed = core.ClosedJaxpr(jaxpr, constants)
        return core.jaxpr_as_fun(closed)(*operands[unused:])[-results:]

    forward.__name__, _ = name_and_file(equation.params["call_jaxpr"])
    (call,) = jax.make_jaxpr(jax.jit(forward))(*types_of(equation.invars)).eqns
    return Replacement(in_place_of(equation, call), (finding_of(equation),))


_IMPLICIT = Rewriter(_taken_out)
