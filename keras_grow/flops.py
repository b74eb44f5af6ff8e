"""What a network costs to run and to train, under its public names."""

from keras_grow.channels.flops import forward_flops, training_flops

__all__ = ["forward_flops", "training_flops"]
