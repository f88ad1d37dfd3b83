"""One computation in the formulation that its platform runs fastest."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from cnnvjp._types import ArrayType, accumulator, primal_type, wider

Formulation = Callable[..., jax.Array]


def fastest(
    plain: Formulation,
    on_platform: Mapping[str, Formulation | None],
    out: ArrayType,
    *operands: jax.Array,
    of_integers: Formulation | None = None,
) -> jax.Array:
    """A function that is linear in each of its operands, in the formulation for its platform.

    The choice falls when the program is lowered, so that one exported for another platform is
    that platform's. This is the one place below the rules that knows of derivatives: those of
    the choice are the plain formulation's, which JAX can transpose. The function is linear in
    each operand, so its derivative along one is itself, with the tangent in that operand's place.

    Args:
        plain: XLA's own formulation, for all other platforms.
        on_platform: by the name of a platform, the formulation that is faster there, or None.
            It computes in one dtype.
        out: dtype and sharding of the result.
        *operands: the arrays.
        of_integers: the formulation for integers on GPUs, if they have not the plain one. It
            computes in one dtype.
    """
    faster = {name: formulation for name, formulation in on_platform.items() if formulation}
    explicit = any(kind.sharding is not None for kind in (out, *map(primal_type, operands)))
    if explicit:  # such a mesh wants to be told of every reshape
        return plain(*operands)
    dtype = wider(functools.reduce(wider, map(_accumulator, operands)), out.dtype)

    def in_one_dtype(formulation: Formulation) -> Formulation:
        return lambda *operands: formulation(*(a.astype(dtype) for a in operands)).astype(out.dtype)

    if not jnp.issubdtype(operands[0].dtype, jnp.floating):
        if of_integers is None:
            return plain(*operands)
        by_taps = in_one_dtype(of_integers)
        return lax.platform_dependent(*operands, default=plain, cuda=by_taps, rocm=by_taps)
    if not faster:
        return plain(*operands)

    @jax.custom_jvp
    def chosen(*operands: jax.Array) -> jax.Array:
        branches = {name: in_one_dtype(formulation) for name, formulation in faster.items()}
        return lax.platform_dependent(*operands, default=plain, **branches)

    def derivative(operands: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
        parts = [
            plain(*operands[:i], tangent, *operands[i + 1 :])
            for i, tangent in enumerate(tangents)
            if not isinstance(tangent, SymbolicZero)
        ]
        y = chosen(*operands)
        return y, functools.reduce(lax.add, parts) if parts else jnp.zeros_like(y)

    chosen.defjvp(derivative, symbolic_zeros=True)
    return chosen(*operands)


def either(
    plain: Callable[..., Any],
    on_platform: Mapping[str, Callable[..., Any] | None],
    *operands: jax.Array,
) -> Any:
    """What two functions compute alike, by the one that is faster; as `fastest` without its rules.

    Args:
        plain: for all other platforms.
        on_platform: by the name of a platform, the function that is faster there, or None.
        *operands: the arrays.
    """
    faster = {name: function for name, function in on_platform.items() if function}
    if not faster or any(primal_type(a).sharding is not None for a in operands):
        return plain(*operands)
    return lax.platform_dependent(*operands, default=plain, **faster)


def beside_overflow(
    plain: Formulation,
    small: Formulation,
    from_plain: Formulation,
    *operands: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """The results of `plain`, and of `small`, which does not overflow.

    An accelerator computes both in one pass over the operands. A CPU computes the second only
    if the first has overflowed somewhere.

    Args:
        plain: the usual formulation.
        small: the other one.
        from_plain: what `small` returns, from what `plain` returned if that is finite.
        *operands: the arrays.
    """

    def if_needed(first: jax.Array, *operands: jax.Array) -> jax.Array:
        return lax.cond(
            _all_finite(lax.stop_gradient(first)),
            lambda first, *_: from_plain(first),
            lambda _, *operands: small(*operands),
            first,
            *operands,
        )

    def always(first: jax.Array, *operands: jax.Array) -> jax.Array:
        return small(*operands)

    first = plain(*operands)
    return first, lax.platform_dependent(first, *operands, cpu=if_needed, default=always)


@jax.custom_batching.custom_vmap
def _all_finite(x: jax.Array) -> jax.Array:
    return jnp.isfinite(x).all()


@_all_finite.def_vmap
def _all_of_them_finite(axis_size: int, batched: Any, x: jax.Array) -> tuple[jax.Array, bool]:
    """One answer for the whole of a mapped axis: otherwise `cond` would compute both branches."""
    return _all_finite(x), False


def _accumulator(x: jax.Array) -> Any:
    return accumulator(x.dtype)
