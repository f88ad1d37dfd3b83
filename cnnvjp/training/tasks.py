"""Tasks: a network with its loss, and with the measure that is reported of it."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cnnvjp import models
from cnnvjp.losses import half_squared_error, softmax_cross_entropy
from cnnvjp.model import Model
from cnnvjp.softmax_activations import softmax
from cnnvjp.training.config import DEPTH, Config
from cnnvjp.training.errors import UsageError
from cnnvjp.training.formats import CLASSES


class Task(NamedTuple):
    """A model with its objective.

    Attributes:
        model: the network.
        training_loss: the loss to be minimised, per image.
        loss: the loss that is reported of other images than the training images, per image.
        loss_name: for the plot.
        target: the array that the output is compared with, from (x, labels), where x is the
            network's input.
        prediction: from outputs to what is shown of them: probabilities, or images.
        classifies: whether outputs are logits of classes.
    """

    model: Model
    training_loss: Callable[[jax.Array, jax.Array], jax.Array]
    loss: Callable[[jax.Array, jax.Array], jax.Array]
    loss_name: str
    target: Callable[[jax.Array, jax.Array], jax.Array]
    prediction: Callable[[jax.Array], jax.Array]
    classifies: bool

    @property
    def measure(self) -> str:
        """The name of the figure that is reported beside the loss."""
        return "accuracy" if self.classifies else "mean_squared_error"

    def figures(self, metrics: dict[str, float], pixels: int) -> dict[str, float]:
        """Loss and measure, from the metrics of `cnnvjp.train` and the values in an image."""
        if self.classifies:
            return {"loss": metrics["loss"], "accuracy": metrics["accuracy"]}
        return {"loss": metrics["loss"], "mean_squared_error": 2 * metrics["loss"] / pixels}

    def score(self, figures: dict[str, float]) -> float:
        """The measure, with a sign such that larger is better."""
        value = figures[self.measure]
        return value if self.classifies else -value


def make_task(config: Config) -> Task:
    """The model that the options ask for, with its loss and its measure.

    Args:
        config: the options.

    Returns:
        The task.

    Raises:
        UsageError: if there is no such ResNet.

    Example:
        >>> make_task(Config(model="autoencoder")).measure
        'mean_squared_error'
    """
    if config.model == "autoencoder":
        error = functools.partial(half_squared_error, axis=(-3, -2, -1))
        return Task(
            models.autoencoder(),
            error,
            error,
            "half squared error per image",
            lambda x, labels: x,
            lambda y: y,
            classifies=False,
        )
    return Task(
        _classifier(config),
        functools.partial(_smoothed_cross_entropy, smoothing=config.label_smoothing),
        softmax_cross_entropy,
        "cross-entropy",
        lambda x, labels: labels,
        softmax,
        classifies=True,
    )


def _classifier(config: Config) -> Model:
    if config.model == "resnet":
        try:
            return models.resnet(DEPTH if config.depth is None else config.depth, CLASSES)
        except ValueError as error:
            raise UsageError(f"--{error}") from error
    if config.model == "mobilenet":
        return models.mobilenet(CLASSES)
    return models.lenet5(CLASSES) if config.model == "lenet5" else models.textbook(CLASSES)


def _smoothed_cross_entropy(logits: jax.Array, labels: jax.Array, *, smoothing: float) -> jax.Array:
    """Cross-entropy with labels of which a share is spread over all classes."""
    if smoothing == 0:
        return softmax_cross_entropy(logits, labels)
    classes = logits.shape[-1]
    sure = jax.nn.one_hot(labels, classes, dtype=logits.dtype)
    return softmax_cross_entropy(logits, (1 - smoothing) * sure + smoothing / classes)


def measured(
    task: Task, outputs: np.ndarray, images: np.ndarray, labels: np.ndarray
) -> dict[str, float]:
    """Loss and measure of the outputs for all images of a part.

    Args:
        task: what was trained.
        outputs: the network's outputs, (N, …).
        images: uint8, (N, height, width, C).
        labels: int32, (N,).

    Returns:
        Means over the images, by name.
    """
    # The target of a network that reconstructs is an image whose white is 1.
    target = task.target(jnp.asarray(images.astype(np.float32) / 255), jnp.asarray(labels))
    losses = np.asarray(jax.jit(task.loss)(outputs, target), np.float64)
    metrics = {"loss": float(losses.mean())}
    if task.classifies:
        metrics["accuracy"] = float(np.mean(np.argmax(outputs, -1) == labels))
    return task.figures(metrics, math.prod(images.shape[1:]))
