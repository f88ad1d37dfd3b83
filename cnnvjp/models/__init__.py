"""Networks built of the operations, from a textbook's figure to MobileNetV2."""

from cnnvjp.models._autoencoder import autoencoder
from cnnvjp.models._lenet5 import lenet5
from cnnvjp.models._mobilenet import mobilenet
from cnnvjp.models._resnet import resnet
from cnnvjp.models._squares_and_diamonds import squares_and_diamonds
from cnnvjp.models._textbook import textbook

__all__ = ["autoencoder", "lenet5", "mobilenet", "resnet", "squares_and_diamonds", "textbook"]
