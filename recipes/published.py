"""The published results that the tables stand beside.

Source: Sakai and Hotta, Growing Deep Neural Network Considering with Similarity between Neurons:
test accuracy in per cent, training seconds on one GTX 1080 Ti.
"""

from __future__ import annotations

from typing import NamedTuple


class Result(NamedTuple):
    """One cell of a published table."""

    accuracy: float
    seconds: float | None


# Tables 1 (CIFAR-10) and 2 (CIFAR-100): (data set, network, method) -> without, with the penalty.
_PAIRS = {
    ("cifar10", "vgg16", "random"): (86.49, 3022, 86.85, 3090),
    ("cifar10", "vgg16", "splitting"): (89.12, 6146, 90.08, 6176),
    ("cifar10", "vgg16", "firefly"): (90.60, 3375, 91.70, 3409),
    ("cifar10", "mobilenet", "random"): (87.90, 1240, 88.29, 1264),
    ("cifar10", "mobilenet", "splitting"): (89.92, 3191, 90.83, 3370),
    ("cifar10", "mobilenet", "firefly"): (91.89, 1630, 92.56, 1670),
    ("cifar100", "vgg16", "random"): (61.77, 6612, 62.09, 6680),
    ("cifar100", "vgg16", "splitting"): (63.90, 13560, 64.52, 13790),
    ("cifar100", "vgg16", "firefly"): (64.74, 5307, 65.55, 5360),
    ("cifar100", "mobilenet", "random"): (62.89, 2690, 63.10, 2842),
    ("cifar100", "mobilenet", "splitting"): (65.71, 7167, 66.16, 7250),
    ("cifar100", "mobilenet", "firefly"): (66.42, 3673, 67.49, 3690),
}

# Table 3 (CIFAR-10, VGG16): method -> only the weight-sum term, only the similarity term.
_ABLATION = {
    "random": (86.49, 3030, 86.67, 3077),
    "splitting": (89.12, 6149, 89.58, 6171),
    "firefly": (91.60, 3379, 91.51, 3402),
}


def published(dataset: str, model: str, method: str, setting: str) -> Result | None:
    """Returns the paper's result, or `None` where it has none.

    Args:
        dataset: "cifar10" or "cifar100".
        model: "vgg16" or "mobilenet".
        method: Name of a growth method.
        setting: "neither", "weight_sum", "similarity" or "both": the terms of the penalty.
    """
    pair = _PAIRS.get((dataset, model, method))
    if pair and setting in ("neither", "both"):
        return Result(*pair[:2]) if setting == "neither" else Result(*pair[2:])
    terms = _ABLATION.get(method) if (dataset, model) == ("cifar10", "vgg16") else None
    if terms and setting in ("weight_sum", "similarity"):
        return Result(*terms[:2]) if setting == "weight_sum" else Result(*terms[2:])
    return None
