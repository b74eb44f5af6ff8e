"""Every growth method in a setting that takes the least time."""

from functools import partial

from keras_grow.methods import Firefly, GradMax, Net2Wider, Random, Splitting

METHODS = {
    "random": Random,
    "net2wider": Net2Wider,
    "splitting": partial(Splitting, examples=8, iterations=2),
    "firefly": partial(Firefly, train_batches=1, score_batches=1),
    "gradmax": partial(GradMax, batches=1, iterations=1),
}
SCORING = ["splitting", "firefly", "gradmax"]
