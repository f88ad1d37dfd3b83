"""`explicit`, and the report of what it did."""

import collections
import dataclasses
from collections.abc import Callable

from jax.extend import core

from cnnvjp.rewriting._chosen import Chosen, Rules
from cnnvjp.rewriting._jaxprs import Findings
from cnnvjp.rewriting._served import EXPLICIT
from cnnvjp.rewriting._traced import Arguments, Result, check_function, traced


@dataclasses.dataclass(frozen=True)
class Report:
    """What `explicit` did to a function; `str` gives a line for each finding.

    Attributes:
        findings: every convolution and window reduction of the function, and what rules were
            chosen for, those that are alike counted together.
    """

    findings: Findings

    @property
    def replaced(self) -> Findings:
        """What our operations or chosen rules compute."""
        return tuple(finding for finding in self.findings if finding.replaced)

    @property
    def left(self) -> Findings:
        """What is computed and differentiated as before, each with the reason."""
        return tuple(finding for finding in self.findings if not finding.replaced)

    def __str__(self) -> str:
        totals = [sum(f.count for f in group) for group in (self.replaced, self.left)]
        return "\n".join(
            ["{} replaced, {} left".format(*totals), *(f"  {f}" for f in self.findings)]
        )


def explicit(
    f: Callable[Arguments, Result],
    *,
    report: Callable[[Report], object] | None = None,
    rules: Rules | None = None,
) -> Callable[Arguments, Result]:
    """Makes every convolution and pooling in a function one of this library's.

    The function is traced, and in its jaxpr each `lax.conv_general_dilated` becomes `conv` or
    `conv_transpose`, and each `lax.reduce_window` with a maximum, minimum or sum becomes
    `max_pool`, `min_pool` or `sum_pool`, through jit, scan, while, cond, checkpoint, vmap and
    shard_map. So gradients of the result use the rules written here, which are fast on CPUs:
    `jax.grad(explicit(loss))`. Values and gradients change by rounding alone. What no
    operation of ours computes is left to lax, as `conv_general_dilated` says.

    Inside functions with a `custom_jvp` or `custom_vjp` the primal bodies are rewritten alone:
    their own rules stay theirs, and derivatives use those. What is a derivative already, as in
    `explicit(jax.grad(loss))`, mostly stays JAX's: apply `explicit` first.

    Like every function with a `custom_vjp`, the result is differentiable in reverse only:
    `jax.jvp`, `jax.jacfwd` and `jax.linearize` of it raise JAX's TypeError; of `implicit(f)`
    they do not. What is built on a gradient works, as in `jax.hessian`. It traces f at every
    call: put `jax.jit` around what is called often.

    Args:
        f: a function of any arguments, pure as for `jax.jit`. The arrays among the leaves of
            its arguments are traced; everything else reaches it as it is. It returns arrays,
            in any pytree. What it changes in place in its arguments, such as the statistics of
            a `flax.nnx` module, is changed after the call as it is after f itself.
        report: called with a `Report` whenever f is traced: `report=print` shows what was
            replaced and what was left, and why.
        rules: what else to replace, and by what: a mapping from operations to functions of the
            same arguments and results, such as those of `cnnvjp.rules` or your own with a
            `jax.custom_vjp`. A key is one of:

            an operation of this library, such as `cnnvjp.conv`: its calls, and what has just
            been replaced by it. The function gets the arrays and those options that are not
            the default; a bias is an `add_bias` of its own;

            a function of `jax.lax` that is one primitive, such as `jax.lax.dot_general`. The
            function gets its arguments likewise;

            another function of JAX, such as `jax.nn.relu`, or a compiled one of your own:
            wherever f computes the very equations that it makes of arrays. With other options
            than the default it is `functools.partial(jax.nn.gelu, approximate=False)`. The
            function gets the arrays;

            a predicate, a function of a `Finding` that returns a bool, by which one layer can
            be chosen: `lambda finding: finding.operation == "relu" and "Conv_0" in
            finding.scope`. It is asked about every operation and function that the program
            shows. The function gets what it would with the operation as a key;

            a tuple of these, any of which may be found.

            What stands first counts. Under `jax.vmap` inside f, operations of this library have
            an axis more than their options say: put the vmap around.

    Returns:
        A function with f's arguments and results.

    Raises:
        TypeError: if f or the report is not a function, or rules is no mapping from such keys to
            functions; when it is called, if f returns what is neither an array nor a number, or
            a rule's function another dtype than what it replaces.
        ValueError: when it is called, if a rule's function returns another shape than what it
            replaces, or a rule has nothing to replace: the gradient would be the usual one.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jax import lax
        >>> def loss(w, x):
        ...     return lax.conv(x, w, (1, 1), "SAME").sum()
        >>> w, x = jnp.ones((1, 1, 2, 2)), jnp.arange(4.0).reshape(1, 1, 2, 2)
        >>> jax.grad(explicit(loss))(w, x)[0, 0]
        Array([[6., 4.],
               [5., 3.]], dtype=float32)
        >>> def show(report):
        ...     print(*(finding.operation for finding in report.replaced))
        >>> _ = explicit(loss, report=show)(w, x)
        conv_general_dilated
        >>> from cnnvjp.rules import guided_relu
        >>> g = explicit(lambda x: -jax.nn.relu(x), rules={jax.nn.relu: guided_relu})
        >>> jax.grad(g)(1.0)  # only what is positive passes
        Array(0., dtype=float32, weak_type=True)

    Source: the rules are those of `conv`, `conv_transpose`, `max_pool`, `min_pool`, `sum_pool`.
    """
    check_function("f", f)
    if report is not None:
        check_function("report", report)

    chosen = None if rules is None else Chosen(rules)
    rewriter = EXPLICIT if chosen is None else chosen.rewriter

    def rewritten(stock: core.ClosedJaxpr) -> core.ClosedJaxpr:
        closed, findings = rewriter.rewritten(stock)
        if chosen is not None:
            chosen.check_found(findings, stock)
        if report is not None:
            report(Report(_counted(findings)))
        return closed

    return traced(f, rewritten)


def _counted(findings: Findings) -> Findings:
    """One finding for all that are alike."""
    counts = collections.Counter(findings)
    return tuple(dataclasses.replace(finding, count=n) for finding, n in counts.items())
