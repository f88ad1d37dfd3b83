"""A right call of every public function, for what is replaced in it."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType

import cnnvjp
from cnnvjp import Model, models, train


def ones(shape, dtype="float64"):
    return jnp.asarray(np.ones(shape, jnp.dtype(dtype)))  # jnp.ones compiles for each shape


KEY = jax.random.key(0)
X, C, W = ones((2, 6, 6, 4)), ones(4), ones((3, 3, 4, 6))
ROWS, LABELS = ones((2, 3)), ones(2, "int32")
IMAGES = ones((2, 10, 10, 1), "float32")

TEXTBOOK, RESNET = models.textbook(3, maps=(2, 2), kernel_size=3), models.resnet(8)
SGD, LOSS = optax.sgd(0.1), cnnvjp.softmax_cross_entropy


def of_form(f):
    """Ones, in the form of what f returns."""
    return jax.tree.map(lambda leaf: ones(leaf.shape, leaf.dtype), jax.eval_shape(f))


PARAMS, STATE = of_form(lambda: TEXTBOOK.init(KEY, (10, 10, 1)))
RESNET_PARAMS, RESNET_STATE = of_form(lambda: RESNET.init(KEY, (10, 10, 1)))
START = train.TrainState(ones((), "int32"), PARAMS, STATE, of_form(lambda: SGD.init(PARAMS)))
TWO = jax.devices()[:2]  # if there are two
MESH = jax.make_mesh((len(TWO),), ("data",), axis_types=(AxisType.Auto,), devices=TWO)


def forward(params, state, x, named, *, train, key):
    return named("n1", x), state


PUBLIC = {name: getattr(cnnvjp, name) for name in cnnvjp.__all__}
PUBLIC = {  # what computes: `cnnvjp.compiling` has the settings
    name: f for name, f in PUBLIC.items() if callable(f) and f.__module__ != "cnnvjp.compiling"
}
FUNCTIONS = [name for name, f in PUBLIC.items() if inspect.isfunction(f)]
PUBLIC |= {f"models.{name}": getattr(models, name) for name in models.__all__}
PUBLIC |= {
    f"train.{name}": f
    for name, f in vars(train).items()
    if getattr(f, "__module__", "") == train.__name__ and inspect.isfunction(f) and name[0] != "_"
}
STEPS = {
    "step": train.make_train_step(TEXTBOOK, LOSS, SGD),
    "step on a mesh": train.make_train_step(TEXTBOOK, LOSS, SGD, mesh=MESH),
    "evaluation": train.make_eval_step(TEXTBOOK, LOSS),
    "evaluation on a mesh": train.make_eval_step(TEXTBOOK, LOSS, mesh=MESH),
}
PUBLIC |= STEPS | {
    "Model.named": Model.named,
    "Model.init": TEXTBOOK.init,
    "Model.apply": TEXTBOOK.apply,
    "Model.intermediates": TEXTBOOK.intermediates,
    "Model.apply with statistics": RESNET.apply,
}

IMAGE, POOL, BLOCKS = dict(x=X), dict(x=X, window=2), dict(x=X, factor=2)
CHANNELS = dict(x=X, gamma=C, beta=C)
STEP = dict(train_state=START, batch=(IMAGES, LABELS), key=KEY)
EVALUATION = dict(train_state=START, batch=(IMAGES, LABELS))
CALLS = dict.fromkeys(FUNCTIONS, IMAGE) | {
    "conv": dict(x=X, w=W, b=ones(6)),
    "conv_transpose": dict(y=X, w=W[..., :4], b=C),
    "conv_general_dilated": dict(
        lhs=X,
        rhs=W,
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    ),
    "explicit": dict(f=cnnvjp.relu),
    "conv_kernel_grad": dict(x=X, dy=ones((2, 4, 4, 6)), kernel_size=3),
    **dict.fromkeys(["max_pool", "min_pool", "avg_pool", "sum_pool", "lp_pool", "unfold"], POOL),
    "weighted_avg_pool": dict(x=X, weight=C, window=2),
    "max_unpool": dict(y=X, argmax=X.astype("int32"), output_size=8),
    **{name: dict(x=X, output_size=3) for name in ["adaptive_avg_pool", "adaptive_max_pool"]},
    **dict.fromkeys(["downsample", "upsample", "repeat"], BLOCKS),
    **dict.fromkeys(["pixel_shuffle", "pixel_unshuffle"], BLOCKS),
    "resize": dict(x=X, size=3),
    "sample": dict(x=X, positions=ones((2, 3, 2))),
    "normalized_positions": dict(grid=ones((3, 2)), size=4),
    "affine_positions": dict(matrix=ones((2, 2, 3)), output_size=4),
    "pad": dict(x=X, padding=1),
    "fold": dict(patches=ones((2, 5, 5, 2, 2, 4)), output_size=6),
    **{name: dict(z=X, b=C) for name in ["add_bias", "scale"]},
    "dense": dict(x=X, w=W[0, 0], b=ones(6)),
    "unflatten": dict(v=ones((2, 12)), shape=(2, 3, 2)),
    "prelu": dict(x=X, slope=C),
    "standardize": dict(x=X, mean=C, std=C),
    **dict.fromkeys(["batch_norm", "layer_norm"], CHANNELS),
    "batch_norm_inference": dict(**CHANNELS, mean=C, var=C),
    "group_norm": dict(**CHANNELS, groups=2),
    "dropout": dict(key=KEY, x=X, rate=0.5),
    "l2_penalty": dict(params={"w": X, "b": [C]}),
    "half_squared_error": dict(y=ROWS, t=ROWS),
    "softmax_cross_entropy": dict(logits=ROWS, labels=ROWS),
    "sigmoid_cross_entropy": dict(logits=ROWS, labels=ROWS),
    **{f"models.{name}": {} for name in models.__all__},
    "Model": dict(init=TEXTBOOK.init, apply=TEXTBOOK.apply),
    "Model.named": dict(init=TEXTBOOK.init, forward=forward),
    "Model.init": dict(key=KEY, input_shape=(10, 10, 1)),
    "Model.apply": dict(params=PARAMS, state=STATE, x=IMAGES, train=False),
    "Model.intermediates": dict(params=PARAMS, state=STATE, x=IMAGES),
    "Model.apply with statistics": dict(
        params=RESNET_PARAMS, state=RESNET_STATE, x=IMAGES, train=False
    ),
    "train.create": dict(key=KEY, model=TEXTBOOK, optimizer=SGD, input_shape=(10, 10, 1)),
    "train.make_train_step": dict(model=TEXTBOOK, loss=LOSS, optimizer=SGD),
    "train.make_eval_step": dict(model=TEXTBOOK, loss=LOSS),
    "step": STEP,
    "step on a mesh": STEP,
    "evaluation": EVALUATION,
    "evaluation on a mesh": EVALUATION,
}


def traced(f, *known):
    """`f` with arrays traced, and known as before what is none or is named."""

    def call(**arguments):
        fixed = {name: arguments.pop(name) for name in known}
        leaves, tree = jax.tree.flatten(arguments)
        is_array = [isinstance(leaf, jax.Array) for leaf in leaves]

        def run(arrays):
            found = iter(arrays)
            mixed = [next(found) if a else v for a, v in zip(is_array, leaves, strict=True)]
            return f(**jax.tree.unflatten(tree, mixed), **fixed)

        arrays = [leaf for leaf, a in zip(leaves, is_array, strict=True) if a]
        return jax.eval_shape(run, arrays) if arrays else f(**arguments, **fixed)

    return call


# The names of arguments that are arrays.
ARRAYS = {"x", "y", "z", "v", "w", "b", "dy", "t", "patches", "weight", "slope", "logits"}
ARRAYS |= {"labels", "mean", "std", "var", "gamma", "beta", "positions", "grid", "matrix"}


class Foreign:
    """What looks like an array and is none that JAX knows."""

    shape, ndim, dtype = (2, 6, 6, 4), 4, "float64"
