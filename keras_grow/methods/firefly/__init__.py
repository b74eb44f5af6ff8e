"""Firefly: the method, and the network with every candidate switched on."""

from keras_grow.methods.firefly.method import Firefly

__all__ = ["Firefly"]
