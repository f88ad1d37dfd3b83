"""Mutants that survive the tests, as `mutation.py` found them, and why each does.

A mutant is named by its module and by the line that it becomes.
"""

CHOICE = "changes only where one formulation gives way to another that gives the same"
MEMORY = "changes only how much is kept in memory"
NEVER = "no value that can come tells the two apart"

SURVIVORS: dict[tuple[str, str], str] = {
    (
        "_cpu/__init__",
        "_BLOCK_BYTES = 9 << 20  # of dy, which a kernel's gradient reads many times over",
    ): CHOICE,
    ("_cpu/__init__", "return any(k > s and o != 1 for k, s, o in axes)"): (
        f"{NEVER}: windows have at least one output along every axis"
    ),
    ("_cpu/_arrays", "TOGETHER = 24"): CHOICE,
    ("_cpu/depthwise", "if stride > 0:"): (
        "what follows leaves an array as it is where the stride is 1; the condition saves the work"
    ),
    ("_cpu/grouped", "_BLOCKS = 33  # blocks at the most: each is compiled"): CHOICE,
    ("_geometry", "padding: Padding, ndim: int, /, names: tuple[str, ...] = ()"): (
        "says how the arguments may be given; all callers give them so"
    ),
    ("_interpolation", "@functools.lru_cache(maxsize= 255)"): MEMORY,
    ("_interpolation", "@functools.lru_cache(maxsize= 257)"): MEMORY,
    ("_lowering", "_REPACKS = jax.__version_info__ > (0, 8, 2)"): (
        "concerns JAX 0.8.2 alone, where the workaround is not needed and does no harm"
    ),
    ("_sparse", "@dataclasses.dataclass(frozen=False, eq=False)"): (
        "forbids what nothing does, to assign to a field"
    ),
    ("_sparse", "_LONGEST_WRITTEN_OUT = 15"): CHOICE,
    ("_taps", "_TOGETHER = 15  # taps; a window of more is taken apart, an axis at a time"): CHOICE,
    ("_taps", "if window.taps < _UNROLLED:"): CHOICE,
    ("affine", 'if order >= "row":'): f'{NEVER}: an order is "row" or "column"',
    ("softmax_activations", "if x.shape[number] <= 0:"): f"{NEVER}: sizes are not negative",
}
