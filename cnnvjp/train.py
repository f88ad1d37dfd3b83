"""Training steps: a state that is passed along, and compiled functions from one to the next.

For whole runs, from a data set to a folder of results, see `cnnvjp.training`.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from chex import Array, ArrayTree
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cnnvjp._checks.arrays import key_operand
from cnnvjp._types import FLOATS, accumulator
from cnnvjp.compiling import jit
from cnnvjp.model import Model, Tree

Batch = tuple[Array, ArrayTree]
Metrics = dict[str, jax.Array]
Loss = Callable[[jax.Array, Tree], jax.Array]

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class TrainState(NamedTuple):
    """All that a training step changes.

    Attributes:
        step: how many steps were taken, an int32.
        params: the trained arrays.
        state: what the model updates by itself, such as running statistics.
        opt_state: the optimizer's.
    """

    step: jax.Array
    params: Tree
    state: Tree
    opt_state: Tree


def create(
    key: jax.Array,
    model: Model,
    optimizer: optax.GradientTransformation,
    input_shape: tuple[int, ...],
) -> TrainState:
    """The state before the first step.

    Args:
        key: for the model's initial parameters.
        model: what will be trained.
        optimizer: an Optax optimizer.
        input_shape: the shape of one example, (*spatial, C), without a batch axis.

    Returns:
        A `TrainState` whose arrays belong to it alone, so that a step may overwrite them.

    Raises:
        TypeError: for a key, model or optimizer that is none.
        ValueError: (from the model) for an input_shape that does not fit.

    Example:
        >>> import jax, optax
        >>> from cnnvjp.models import textbook
        >>> train_state = create(jax.random.key(0), textbook(), optax.sgd(0.1), (16, 16, 1))
        >>> train_state.step, train_state.params["conv1"]["w"].shape
        (Array(0, dtype=int32), (5, 5, 1, 8))

    Source: [H], "Gradient Calculation"; the optimizers are those of Optax.
    """
    key_operand(key)
    _check_has("model", model, "init", "apply")
    _check_has("optimizer", optimizer, "init", "update")
    params, state = model.init(key, input_shape)
    train_state = TrainState(jnp.zeros((), jnp.int32), params, state, optimizer.init(params))
    # A step overwrites what it is given. Models may hand out arrays that they keep (designed
    # weights), optimizers may keep the parameters' own, and none of these must change.
    return jax.tree.map(lambda leaf: jnp.array(leaf, dtype=jnp.asarray(leaf).dtype), train_state)


def make_train_step(
    model: Model,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    mesh: Mesh | None = None,
    observe: Callable[[Tree], Metrics] | None = None,
    compiler_options: Mapping[str, Any] | None = None,
) -> Callable[[TrainState, Batch, jax.Array], tuple[TrainState, Metrics]]:
    """A compiled step of training: `step(train_state, (x, t), key) -> (train_state, metrics)`.

        params ← params + update(∂/∂params of the mean over the batch of loss(model(x), t))

    The train state that goes in is donated: its memory is used for the one that comes out,
    and it must not be used again. The key is folded with the step's number before the model
    gets it, so that one key serves a whole training. Metrics are float32 scalars (float64 for
    such a loss): "loss" and "grad_norm", both from before the update, and "accuracy" where t
    is integer labels and the model returns logits.

    With a mesh, the batch is divided among the devices along the mesh's first axis, and the
    train state is kept whole on all of them. Each device computes the gradient of its share,
    and their sum goes to all (one all-reduce of what has the parameters' size); the numbers
    are those of one device, up to rounding. Statistics that the model takes over the batch are
    of the whole batch. Where the mesh spans several processes, each passes its own part of the
    batch, or arrays that span them too.

    Args:
        model: what is trained, by `apply(params, state, x, train=True, key=key)`.
        loss: `loss(y, t)`, one number for each example, (N,), or also for each position,
            (N, *spatial). Its mean is minimised.
        optimizer: the Optax optimizer with which the train state was created.
        mesh: devices to divide the batch among. Its axes are taken to be Auto axes.
        observe: `observe(gradients) -> metrics` of your own, a dict of scalars by name, which
            are returned with the others; of the whole batch's gradients, a tree as the
            parameters are.
        compiler_options: XLA's, as in `cnnvjp.jit`: `cnnvjp.cpu_compiler_options()` by default,
            {} for none.

    Returns:
        The step. `x` is (N, *input_shape), `t` what the loss takes, with N entries.

    Raises:
        TypeError: for a model, loss, optimizer, mesh or observe that is none; (from the step) for a
            train state or key that is none, a batch that is not a pair of arrays, or a loss that
            is not floating.
        ValueError: (from the step) for an empty batch, a loss that is not given per example,
            or N that the devices cannot divide.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from cnnvjp.losses import softmax_cross_entropy
        >>> from cnnvjp.models import textbook
        >>> model, optimizer, key = textbook(2, maps=(2, 2)), optax.sgd(0.1), jax.random.key(0)
        >>> train_state = create(key, model, optimizer, (16, 16, 1))
        >>> step = make_train_step(model, softmax_cross_entropy, optimizer)
        >>> x, t = jax.random.normal(key, (8, 16, 16, 1)), jnp.arange(8) % 2
        >>> train_state, before = step(train_state, (x, t), key)
        >>> train_state, after = step(train_state, (x, t), key)
        >>> int(train_state.step), bool(after["loss"] < before["loss"])
        (2, True)

    Source: [GBC] on gradients for convolutional networks; [H], "Gradient Calculation".
    """
    _check_has("model", model, "init", "apply")
    _check_function("loss", loss, "y, t")
    _check_has("optimizer", optimizer, "init", "update")
    if observe is not None:
        _check_function("observe", observe, "gradients")

    def mean_loss(
        params: Tree, state: Tree, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[jax.Array, Tree]]:
        x, t = batch
        y, state = model.apply(params, state, x, train=True, key=key)
        return _mean_loss(loss, y, t), (y, state)

    def step(train_state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, Metrics]:
        _check_train_state(train_state)
        _check_batch(batch)
        key_operand(key)
        step, params, state, opt_state = train_state
        step_key = jax.random.fold_in(key, step)
        value_and_grad = jax.value_and_grad(mean_loss, has_aux=True)
        (value, (y, state)), gradients = value_and_grad(params, state, batch, step_key)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        params = optax.apply_updates(params, updates)
        metrics = {"loss": value, "grad_norm": _norm(gradients), **_accuracy(y, batch[1])}
        if observe is not None:
            metrics |= observe(gradients)
        return TrainState(step + 1, params, state, opt_state), metrics

    return _compiled(step, mesh, compiler_options, donate=True)


def make_eval_step(
    model: Model,
    loss: Loss,
    *,
    mesh: Mesh | None = None,
    compiler_options: Mapping[str, Any] | None = None,
) -> Callable[[TrainState, Batch], Metrics]:
    """A compiled evaluation: `step(train_state, (x, t)) -> metrics`.

    The model runs with `train=False` and without a key; nothing is changed or donated.
    Metrics are "loss", the mean over the batch, and "accuracy" where t is integer labels and
    the model returns logits.

    Args:
        model: as in `make_train_step`.
        loss: as in `make_train_step`.
        mesh: as in `make_train_step`.
        compiler_options: as in `make_train_step`.

    Returns:
        The step.

    Raises:
        TypeError: as in `make_train_step`.
        ValueError: as in `make_train_step`.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from cnnvjp.losses import softmax_cross_entropy
        >>> from cnnvjp.models import squares_and_diamonds
        >>> model = squares_and_diamonds()
        >>> train_state = create(jax.random.key(0), model, optax.sgd(0.1), (15, 15, 1))
        >>> diamond = jnp.eye(15) + jnp.eye(15)[::-1]  # slanted lines are what it looks for
        >>> step = make_eval_step(model, softmax_cross_entropy)
        >>> step(train_state, (diamond.reshape(1, 15, 15, 1), jnp.array([1])))["accuracy"]
        Array(1., dtype=float32)

    Source: [H], "Hierarchical Template Matching".
    """
    _check_has("model", model, "init", "apply")
    _check_function("loss", loss, "y, t")

    def step(train_state: TrainState, batch: Batch) -> Metrics:
        _check_train_state(train_state)
        _check_batch(batch)
        x, t = batch
        y, _ = model.apply(train_state.params, train_state.state, x, train=False)
        return {"loss": _mean_loss(loss, y, t), **_accuracy(y, t)}

    return _compiled(step, mesh, compiler_options, donate=False)


# ------------------------------------------------------------------------------------------
# What both steps do
# ------------------------------------------------------------------------------------------


def _mean_loss(loss: Loss, y: jax.Array, t: ArrayTree) -> jax.Array:
    values = loss(y, t)
    if not hasattr(values, "dtype") or values.dtype not in FLOATS:
        got = getattr(values, "dtype", type(values).__name__)
        raise TypeError(f"loss: got {got}; it must return a floating array")
    if values.shape[:1] != y.shape[:1]:
        raise ValueError(
            f"loss: got an array of shape {values.shape}; for {y.shape[0]} examples it must be "
            f"({y.shape[0]}, ...), one number for each, and not yet their mean"
        )
    return jnp.mean(values, dtype=accumulator(values.dtype))


def _accuracy(y: jax.Array, t: Tree) -> Metrics:
    """The share of examples whose largest logit is the label's, where there are labels."""
    labels = hasattr(t, "dtype") and jnp.issubdtype(t.dtype, jnp.integer)
    if not labels or t.shape != y.shape[:-1]:
        return {}
    right = jnp.argmax(y, axis=-1).astype(t.dtype) == t
    return {"accuracy": jnp.mean(right, dtype=jnp.float32)}


def _norm(gradients: ArrayTree) -> jax.Array:
    """The Euclidean length of all gradients together."""
    return optax.tree.norm(jax.tree.map(lambda g: g.astype(accumulator(g.dtype)), gradients))


def _check_has(name: str, value: object, *functions: str) -> None:
    """Checks that a model or an optimizer is one, and not the function that makes it."""
    if not all(hasattr(value, function) for function in functions):
        called = ": call it first" if callable(value) else ""
        raise TypeError(
            f"{name}: got {value!r}; it must have the functions {' and '.join(functions)}{called}"
        )


def _check_function(name: str, value: object, arguments: str) -> None:
    if not callable(value):
        raise TypeError(f"{name}: got {value!r}; it must be a function {name}({arguments})")


def _check_train_state(train_state: object) -> None:
    if not isinstance(train_state, TrainState):
        raise TypeError(
            f"train_state: got {type(train_state).__name__}; it must be a TrainState, as "
            "train.create returns it"
        )


def _check_batch(batch: object) -> None:
    """Checks that a batch is a pair (x, t) with the same number of examples, at least one."""
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        got = "one array" if hasattr(batch, "shape") else f"a {type(batch).__name__}"
        size = f" of {len(batch)}" if isinstance(batch, tuple | list) else ""
        raise TypeError(f"batch: got {got}{size}; it must be a pair (x, t)")
    for name, part in zip(("x", "t"), batch, strict=True):
        if isinstance(part, list | tuple) and not all(getattr(p, "shape", ()) for p in part):
            raise TypeError(f"batch: got a {type(part).__name__} as {name}; it must be an array")
    leaves = jax.tree.leaves(batch)
    for leaf in leaves:
        if not hasattr(leaf, "shape"):
            raise TypeError(f"batch: got {type(leaf).__name__}; x and t must be arrays")
    examples = {leaf.shape[:1] for leaf in leaves}
    if len(examples) != 1 or not all(examples) or (0,) in examples:
        shapes = [str(leaf.shape) for leaf in leaves]
        raise ValueError(
            f"batch: got arrays of shapes {', '.join(shapes) or 'none'}; x and t must have the "
            "same number of examples, at least one, along their first axes"
        )


def _compiled(
    step: Callable[Arguments, Result],
    mesh: Mesh | None,
    compiler_options: Mapping[str, Any] | None,
    *,
    donate: bool,
) -> Callable[Arguments, Result]:
    """Compiles a step, on a mesh with the batch divided and all else whole on every device.

    The step's arguments are the train state, the batch, and possibly a key.
    """
    donated = (0,) if donate else ()
    if mesh is None:
        return jit(step, donate_argnums=donated, compiler_options=compiler_options)
    if not isinstance(mesh, Mesh):
        raise TypeError(f"mesh: got {type(mesh).__name__}; it must be a jax.sharding.Mesh")
    data_axis = mesh.axis_names[0]
    # With Auto axes the compiler places what is between the inputs and the outputs.
    mesh = Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * mesh.devices.ndim)
    whole = NamedSharding(mesh, PartitionSpec())
    divided = NamedSharding(mesh, PartitionSpec(data_axis))
    compiled: Callable[..., Result] = jit(
        step, donate_argnums=donated, out_shardings=whole, compiler_options=compiler_options
    )
    signature = inspect.signature(step)

    @functools.wraps(compiled)
    def placed(*args: Arguments.args, **named: Arguments.kwargs) -> Result:
        train_state, batch, *key = signature.bind(*args, **named).args
        _check_train_state(train_state)
        _check_batch(batch)
        for one in key:
            key_operand(one)
        x = jax.tree.leaves(batch)[0]
        everywhere = isinstance(x, jax.Array) and not x.is_fully_addressable
        devices = (mesh if everywhere else mesh.local_mesh).shape[data_axis]
        if x.shape[0] % devices:
            raise ValueError(
                f"batch: got {x.shape[0]} examples; the mesh divides them among the {devices} "
                f"devices of its axis {data_axis!r}, so it must be a multiple of {devices}"
            )
        shardings = (whole, divided, *(whole for _ in key))
        return compiled(*_place((train_state, batch, *key), shardings))

    return placed


def _place(arguments: tuple[Tree, ...], shardings: tuple[NamedSharding, ...]) -> tuple[Tree, ...]:
    """Puts each array where its sharding says, which costs nothing where it is there already."""

    def place(array: Array, sharding: NamedSharding) -> jax.Array:
        # Between steps all is in its place: to ask is far cheaper than to put it there again.
        if isinstance(array, jax.Array) and array.sharding == sharding:
            return array
        if sharding.is_fully_addressable:
            return jax.device_put(array, sharding)
        # One of several processes: it gives its own part of the batch, and all of the rest.
        if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
            data = place(jax.random.key_data(array), sharding)
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(array))
        return jax.make_array_from_process_local_data(sharding, np.asarray(array))

    def place_all(tree: Tree, sharding: NamedSharding) -> Tree:
        return jax.tree.map(lambda array: place(array, sharding), tree)

    return tuple(map(place_all, arguments, shardings))
