"""A model: two pure functions, and names for the values between its layers."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax

# A tree of arrays, by a structure that the model alone knows: whoever indexes it knows which.
Tree = Any
Named = Callable[[str, jax.Array], jax.Array]
Init = Callable[..., tuple[Tree, Tree]]
Apply = Callable[..., tuple[jax.Array, Tree]]
Intermediates = Callable[..., dict[str, jax.Array]]


def _names_nothing(*_: object, **__: object) -> dict[str, jax.Array]:
    raise ValueError("intermediates: this model names no values; build it by Model.named")


def _check_function(name: str, value: object) -> None:
    if not callable(value):
        raise TypeError(f"{name}: got {value!r}; it must be a function")


@dataclasses.dataclass(frozen=True)
class Model:
    """A network as pure functions; its parameters and its state are kept by the caller.

    `Model(init, apply)` written by hand is all that `cnnvjp.train` needs. A model made by
    `Model.named`, as all of `cnnvjp.models` are, also names the values between its layers
    after [H] 8.28–8.29: "lz3" is the output of layer 3's weight function, "n3" its net input
    and "a3" its activation, each where it differs from the next.

    Attributes:
        init: `init(key, input_shape) -> (params, state)`. `input_shape` is that of one
            example, (*spatial, C), without a batch axis. `params` and `state` are trees of
            arrays: what is trained, and what `apply` updates by itself, such as running
            statistics; a model that keeps none has the state {}.
        apply: `apply(params, state, x, *, train, key=None, perturbations=None) -> (y, state)`
            for x of shape (*batch, *input_shape). `train` tells training from inference,
            `key` feeds what is random in training, and `perturbations`, a dict of arrays by
            name, is added to the named values: at zero, gradients with respect to it are the
            sensitivities dLZ, dN and dA.
        intermediates: `intermediates(params, state, x, *, train=False, key=None)` returns the
            named values themselves, a dict in the order in which they are computed (by name, if
            it is called through `jax.jit`, which sorts dicts).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from cnnvjp.models import textbook
        >>> model = textbook(classes=2, maps=(1, 1), kernel_size=3)
        >>> params, state = model.init(jax.random.key(0), (10, 10, 1))
        >>> x = jnp.ones((1, 10, 10, 1))
        >>> values = model.intermediates(params, state, x)
        >>> values["n3"].shape
        (1, 2, 2, 1)
        >>> def f(perturbations):
        ...     y, _ = model.apply(params, state, x, train=False, perturbations=perturbations)
        ...     return y.sum()
        >>> jax.grad(f)({"n5": jnp.zeros((1, 2))})
        {'n5': Array([[1., 1.]], dtype=float32)}

    Source: [H] 8.27–8.31.
    """

    init: Init
    apply: Apply
    intermediates: Intermediates = dataclasses.field(default_factory=lambda: _names_nothing)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check_function(field.name, getattr(self, field.name))

    @staticmethod
    def named(init: Init, forward: Apply) -> "Model":
        """A model from one forward function that names the values on its way.

        Args:
            init: as in `Model`.
            forward: `forward(params, state, x, named, *, train, key) -> (y, state)`. It passes
                each value that has a name through `named(name, value)`, which returns the value,
                perturbed where that was asked for.

        Returns:
            The `Model` whose `apply` and `intermediates` both run `forward`.

        Raises:
            TypeError: for what is not a function; (from apply) for perturbations that are not a
                dict of arrays of the dtype of the values that they perturb.
            ValueError: (from apply) for a perturbation of an unknown name or of another shape.

        Example:
            >>> import jax, jax.numpy as jnp
            >>> def forward(params, state, x, named, *, train, key):
            ...     n1 = named("n1", x * params)
            ...     return named("a1", jnp.tanh(n1)), state
            >>> model = Model.named(lambda key, input_shape: (jnp.ones(input_shape), {}), forward)
            >>> model.intermediates(jnp.array([2.0]), {}, jnp.array([0.5]))["n1"]
            Array([1.], dtype=float32)

        Source: [H] 8.28–8.29.
        """
        _check_function("forward", forward)

        def apply(
            params: chex.ArrayTree,
            state: chex.ArrayTree,
            x: chex.Array,
            *,
            train: bool,
            key: chex.PRNGKey | None = None,
            perturbations: Mapping[str, jax.Array] | None = None,
        ) -> tuple[jax.Array, Tree]:
            named = _Named({} if perturbations is None else perturbations)
            y, state = forward(params, state, x, named, train=train, key=key)
            named.check_all_used()
            return y, state

        def intermediates(
            params: chex.ArrayTree,
            state: chex.ArrayTree,
            x: chex.Array,
            *,
            train: bool = False,
            key: chex.PRNGKey | None = None,
        ) -> dict[str, jax.Array]:
            named = _Named({})
            forward(params, state, x, named, train=train, key=key)
            return named.values

        return Model(init, apply, intermediates)


class _Named:
    """Sees each named value once on its way through the forward function."""

    def __init__(self, perturbations: Mapping[str, jax.Array]) -> None:
        if not isinstance(perturbations, Mapping):
            raise TypeError(
                f"perturbations: got {type(perturbations).__name__}; it must be a dict of arrays "
                "by the names of the values that they perturb"
            )
        self.perturbations = perturbations
        self.values: dict[str, jax.Array] = {}

    def __call__(self, name: str, value: jax.Array) -> jax.Array:
        if name in self.values:
            raise ValueError(f"named: got {name!r} twice; every value needs a name of its own")
        if name in self.perturbations:
            value = value + self._fitting(name, value)
        self.values[name] = value
        return value

    def _fitting(self, name: str, value: jax.Array) -> jax.Array:
        perturbation = self.perturbations[name]
        if not hasattr(perturbation, "dtype") or perturbation.dtype != value.dtype:
            got = getattr(perturbation, "dtype", type(perturbation).__name__)
            raise TypeError(
                f"perturbations[{name!r}]: got {got}; it must be an array of {value.dtype}"
            )
        if perturbation.shape != value.shape:
            raise ValueError(
                f"perturbations[{name!r}]: got the shape {perturbation.shape}; it must be "
                f"{value.shape}"
            )
        return perturbation

    def check_all_used(self) -> None:
        unknown = [name for name in self.perturbations if name not in self.values]
        if unknown:
            raise ValueError(
                f"perturbations: got {', '.join(map(repr, unknown))}; the names are "
                f"{', '.join(self.values)}"
            )
