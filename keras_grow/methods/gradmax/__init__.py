"""GradMax: the method, its neurons as rows of matrices, and folded normalisations."""

from keras_grow.methods.gradmax.method import GradMax

__all__ = ["GradMax"]
