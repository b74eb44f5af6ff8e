"""Splitting steepest descent: the method, and second derivatives with their eigenvectors."""

from keras_grow.methods.splitting.method import Splitting

__all__ = ["Splitting"]
