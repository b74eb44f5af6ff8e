"""Figures of growing networks: what growth did over time, to the neurons and to what they see.

Every function returns a matplotlib `Figure` made without `pyplot`, so that nothing is kept alive
or shown behind the caller's back. Line styles differ as well as colours, and the colours are
cividis, so that the figures survive grey printing.
"""

from keras_grow.plots.growth import growth_curve
from keras_grow.plots.saliency import saliency_grid
from keras_grow.plots.similarity import similarity_histogram, similarity_over_time
from keras_grow.plots.tuning import hyperparameter_curve

__all__ = [
    "growth_curve",
    "hyperparameter_curve",
    "saliency_grid",
    "similarity_histogram",
    "similarity_over_time",
]
