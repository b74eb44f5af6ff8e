"""How much alike the neurons of a layer are: Eq. 1, 2 and 4, under their public names."""

from keras_grow.penalty.similarity import (
    mean_similarity,
    neuron_rows,
    similarity_map,
    weight_drift,
)
from keras_grow.penalty.similarity_penalty import PenaltyTerms, SimilarityPenalty

__all__ = [
    "PenaltyTerms",
    "SimilarityPenalty",
    "mean_similarity",
    "neuron_rows",
    "similarity_map",
    "weight_drift",
]
