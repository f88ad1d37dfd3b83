"""What is trained towards what: a network with its loss and the figure that people ask for."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from training_config import Config, UsageError
from training_data import CLASSES

from cnnvjp import models
from cnnvjp.losses import half_squared_error, softmax_cross_entropy
from cnnvjp.model import Model
from cnnvjp.softmax_activations import softmax


class Task(NamedTuple):
    """A model with what it is trained towards.

    Attributes:
        model: the network.
        training_loss: what is minimised, per image.
        loss: what is reported of images that it wasn't trained on, per image.
        loss_name: for the plot.
        target: what the output is compared with, from (x, labels), where x is what the network
            is given.
        prediction: what people want to see of an output: probabilities, or an image.
        classifies: whether outputs are logits of classes.
    """

    model: Model
    training_loss: Callable[[jax.Array, jax.Array], jax.Array]
    loss: Callable[[jax.Array, jax.Array], jax.Array]
    loss_name: str
    target: Callable[[Any, Any], Any]
    prediction: Callable[[jax.Array], jax.Array]
    classifies: bool

    @property
    def measure(self) -> str:
        """The name of the figure that people ask for."""
        return "accuracy" if self.classifies else "mean_squared_error"

    def figures(self, metrics: dict[str, float], pixels: int) -> dict[str, float]:
        """Loss and measure, from the metrics of `cnnvjp.train` and the size of an image."""
        if self.classifies:
            return {"loss": metrics["loss"], "accuracy": metrics["accuracy"]}
        return {"loss": metrics["loss"], "mean_squared_error": 2 * metrics["loss"] / pixels}

    def score(self, figures: dict[str, float]) -> float:
        """The measure, such that more is better."""
        value = figures[self.measure]
        return value if self.classifies else -value


def make_task(config: Config) -> Task:
    """The model that the options ask for, with its loss and its measure."""
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
            return models.resnet(config.depth, CLASSES)
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
    """Loss and measure of the outputs for all of a part's images."""
    # What is the target of a network that reconstructs is an image whose white is 1.
    target = task.target(images.astype(np.float32) / 255, labels)
    losses = np.asarray(jax.jit(task.loss)(outputs, target), np.float64)
    metrics = {"loss": float(losses.mean())}
    if task.classifies:
        metrics["accuracy"] = float(np.mean(np.argmax(outputs, -1) == labels))
    return task.figures(metrics, math.prod(images.shape[1:]))
