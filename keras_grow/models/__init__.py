"""The networks of the paper and a small residual one, built of growable layers."""

from keras_grow.models.mobilenet import MobileNetV1
from keras_grow.models.resnet import ResNet
from keras_grow.models.vgg import VGG16

__all__ = ["VGG16", "MobileNetV1", "ResNet"]
