"""The VGG16 of `keras_grow.models` in PyTorch, eager and channels-last: an arm of `throughput.py`.

A process of its own (PyTorch and TensorFlow in one process crash on some machines) that takes
turns with the other arms: it writes its number of parameters when it is ready; then, for each
number of steps that it reads, it takes them and writes a line when the last one is done. Nothing
depends on PyTorch; this runs where it is installed.
"""

from __future__ import annotations

import argparse
import itertools
import sys

import torch

POOL_AFTER = (2, 4, 7, 10, 13)


def main(argv: list[str] | None = None) -> None:
    """Takes steps for as long as numbers of steps come in.

    Args:
        argv: The arguments. Defaults to those of the command line.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    args = parser.parse_args(argv)
    stepper = Stepper(args.width, args.batch_size)
    print(sum(parameter.numel() for parameter in stepper.model.parameters()), flush=True)
    for line in sys.stdin:
        print(stepper(int(line)), flush=True)


def vgg16(width: int, classes: int = 10) -> torch.nn.Module:
    """Builds the network: 13 convolutions with batch normalisation and relu, one linear head."""
    layers: list[torch.nn.Module] = []
    for number in range(1, 14):
        channels = 3 if number == 1 else width
        layers += [
            torch.nn.Conv2d(channels, width, 3, padding=1, bias=False),
            torch.nn.BatchNorm2d(width, eps=1e-3, momentum=0.1),
            torch.nn.ReLU(inplace=True),
        ]
        if number in POOL_AFTER:
            layers.append(torch.nn.MaxPool2d(2))
    layers += [torch.nn.Flatten(), torch.nn.Linear(width, classes)]
    for layer in layers:
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight)
    return torch.nn.Sequential(*layers)


class Stepper:
    """Takes training steps on batches that already lie on the device.

    Args:
        width: Width of the VGG16.
        batch_size: Examples per step.
    """

    def __init__(self, width: int, batch_size: int):
        torch.manual_seed(0)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = vgg16(width).to(device, memory_format=torch.channels_last)
        self._optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9)
        pixels = torch.randn(4, batch_size, 3, 32, 32, device=device)
        labels = torch.randint(0, 10, (4, batch_size), device=device)
        batches = [
            (x.contiguous(memory_format=torch.channels_last), y)
            for x, y in zip(pixels, labels, strict=True)
        ]
        self._batches = itertools.cycle(batches)

    def __call__(self, steps: int) -> float:
        """Takes steps, waits for the last one, and returns its loss."""
        for _ in range(steps):
            x, y = next(self._batches)
            self._optimizer.zero_grad(set_to_none=True)
            loss = torch.nn.functional.cross_entropy(self.model(x), y)
            loss.backward()
            self._optimizer.step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return loss.item()


if __name__ == "__main__":
    main()
