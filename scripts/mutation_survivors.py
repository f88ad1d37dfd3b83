"""Mutants that survive the tests, as `mutation.py` found them, and why each does.

A mutant is named by its module and by the line that it becomes.
"""

CHOICE = "changes only where one formulation gives way to another that gives the same"
MEMORY = "changes only how much is kept in memory"
NEVER = "no value that can come tells the two apart"
LENGTHS = f"{NEVER}: what is zipped is equally long"

SURVIVORS: dict[tuple[str, str], str] = {
    ("_jax_versions", "TRANSPOSES_WIDENING = _VERSION > (0, 10)"): (
        f"{NEVER}: a version has three numbers"
    ),
    ("_jax_versions", "REPACKS = _VERSION > (0, 8, 2)"): (
        "concerns JAX 0.8.2 alone, where the workaround is not needed and does no harm"
    ),
    ("_lowering/cpu/__init__", "_BATCH_BYTES = 9 << 20"): CHOICE,
    ("_lowering/cpu/__init__", "return any(k > s and o != 1 for k, s, o in axes)"): (
        f"{NEVER}: windows have at least one output along every axis"
    ),
    ("_lowering/cpu/arrays", "TOGETHER = 24"): CHOICE,
    (
        "_lowering/cpu/arrays",
        "residue, taps, sizes, edges, dilations = zip(*combination, strict=False)",
    ): LENGTHS,
    ("_lowering/cpu/dense", "if not x.shape[-1] <= dy.shape[-1]:"): CHOICE,
    (
        "_lowering/cpu/depthwise",
        "return [p + q for q, p in zip(a, b, strict=True)]",
    ): "a sum does not depend on the order of its two terms",
    ("_lowering/cpu/depthwise", "if stride > 0:"): (
        "what follows leaves an array as it is where the stride is 1; the condition saves the work"
    ),
    (
        "_lowering/cpu/depthwise",
        "for mine, most in zip(phase.window.padding, edges, strict=False)",
    ): LENGTHS,
    ("_lowering/cpu/grouped", "_MOST = 33"): CHOICE,
    (
        "_lowering/cpu/grouped",
        "parts = jnp.split(x, groups / q, -1), jnp.split(dy, groups // q, -1)",
    ): f"{NEVER}: q divides the groups, and NumPy counts with whole floats too",
    ("_windows/spatial", "padding: Padding, ndim: int, /, names: tuple[str, ...] = ()"): (
        "says how the arguments may be given; all callers give them so"
    ),
    ("_windows/matrices", "@dataclasses.dataclass(frozen=False, eq=False)"): (
        "forbids what nothing does, to assign to a field"
    ),
    ("_windows/matrices", "_LONGEST_WRITTEN_OUT = 15"): CHOICE,
    ("_windows/taps", "_TOGETHER = 15"): CHOICE,
    ("_windows/taps", "if window.taps < _UNROLLED:"): CHOICE,
    ("affine", 'if order >= "row":'): f'{NEVER}: an order is "row" or "column"',
    ("max_unpooling", "scatter = jax.vmap(one_map, in_axes=-1, out_axes=1)"): (
        f"{NEVER}: one map's plane has one axis, so that axis 1 is the last"
    ),
    (
        "models/_autoencoder",
        '1.0 * _STRIDE**2, "fan_in", "truncated_normal", in_axis=+1, out_axis=-2',
    ): f"{NEVER}: the fan-in is the product of all axes but that of the outputs",
    (
        "rewriting/_drop_in",
        "return jax.jit(computed, static_argnames=options, inline=False)",
    ): "changes only whether the call is a function of its own in the program",
    ("resizing", "@functools.lru_cache(maxsize= 255)"): MEMORY,
    (
        "training/evaluation",
        "for index, (label, guess) in enumerate(zip(evaluation.part.labels, guesses, "
        "strict=False)):",
    ): LENGTHS,
    ("resizing", "@functools.lru_cache(maxsize= 257)"): MEMORY,
}
