"""Trains a growing network on CIFAR-10 or CIFAR-100, with the paper's protocol as defaults.

    python recipes/cifar.py                                  # VGG16, 16 channels wide, 250 epochs
    python recipes/cifar.py --model mobilenet --dataset cifar100 --method random
    python recipes/cifar.py --train-examples 10000 --epochs 10 --every 2      # minutes, 2 cores
    python recipes/cifar.py --static --widths-from runs/.../results.json      # the baseline
    python recipes/cifar.py --backend jax --data cifar10.npz                  # without TensorFlow

A network that starts 16 (VGG16) or 32 (MobileNetV1) channels wide gets 35 % more neurons every 50
epochs; after each growth the similarity penalty is part of the loss for some epochs. SGD with
momentum 0.9, batches of 128, pad-crop and flip, learning rate 0.1 along one cosine.

Weight decay: `--weight-decay` is the factor of an L2 penalty in the gradient, as in the published
code. Keras's SGD decays the weights directly, by learning_rate * weight_decay, past the momentum,
which would have repeated each step of it 1 / (1 - momentum) times in all; so the optimizer gets
weight_decay / (1 - momentum), which decays as fast. Biases and normalisation decay too, as there.

`--backend jax` needs no TensorFlow, with `--data cifar10.npz` (see data.py) or Keras's download.

Nothing is chosen by the test accuracy that is printed along the way (`--test-every`). Writes
`results.json` (see keras_grow.runs) and `model.keras` into --out. A run that was stopped goes on
from its last epoch (or from its last `--save-every` steps), and ends as if it had not been: give
the same command again, with its --out. `--minutes` stops it by itself.

Reference: Sakai and Hotta, Growing Deep Neural Network Considering with Similarity between Neurons.
"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
import time
from pathlib import Path

import common
import data
import keras

import keras_grow
from keras_grow import runs

# Constructor, and the paper's width at the start.
MODELS = {
    "vgg16": (keras_grow.models.VGG16, 16),
    "mobilenet": (keras_grow.models.MobileNetV1, 32),
}
# The paper's best numbers of penalised epochs after a growth; 15 where it names none.
PENALTY_EPOCHS = {"random": 20, "splitting": 10, "firefly": 15}
# Groups that share a budget of their own, as in the published code; the other ten share the rest.
FIREFLY_POOLS = {"mobilenet": [["stem", *(f"block{n}_pointwise" for n in (1, 2, 3))]]}
# On JAX, Keras waits for the device after each execution, for the sake of callbacks.
STEPS_PER_EXECUTION = {"tensorflow": 1, "jax": 16}
# Folder within --out, there until the results are.
BACKUP = "backup"
# Options that change nothing of what comes out.
ELSEWHERE = ("out", "data", "minutes", "save_every")


def main(argv: list[str] | None = None) -> dict | None:
    """Runs the recipe, and returns what it writes to the JSON; `None` if `--minutes` ended it."""
    args = parse(argv)
    ends = time.monotonic() + 60 * (args.minutes or math.inf)
    keras.utils.set_random_seed(args.seed)
    keras.config.set_dtype_policy(args.mixed_precision or keras.config.floatx())
    asked = {k: v for k, v in configuration(args).items() if k not in ELSEWHERE}
    common.claim(args.out / BACKUP / "configuration.json", asked)
    images = data.load(args)
    model = build_model(args, images)
    try:
        run = train(model, images, args, ends)
    except TimeIsUpError:
        print(
            f"stopped after {args.minutes:g} minutes; the same command, --out {args.out}, goes on"
        )
        return None
    model.save(args.out / "model.keras")
    runs.write(args.out / runs.RESULTS, run)
    shutil.rmtree(args.out / BACKUP)
    print(f"{summary(run)}\n{runs.RESULTS} and model.keras are in {args.out}")
    return run.to_dict()


def build_model(args: argparse.Namespace, images: data.Data) -> keras_grow.GrowableModel:
    """Builds and compiles the network, as wide as it starts."""
    build, paper_width = MODELS[args.model]
    model = build(
        width=args.width or paper_width,
        classes=images.classes,
        input_shape=images.input_shape,
        widths=args.widths,
    )
    model.compile(
        sgd(args, images.steps_per_epoch),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=args.jit_compile,
        steps_per_execution=args.steps_per_execution,
    )
    return model


def sgd(args: argparse.Namespace, steps_per_epoch: int) -> keras.optimizers.SGD:
    """Returns the optimizer. On the weight decay, see the head of this file.

    The learning rate follows the growths whether or not this run grows: a static baseline has the
    same one at the same step.
    """
    rate = keras_grow.schedules.get(
        args.schedule,
        args.learning_rate,
        total_steps=args.epochs * steps_per_epoch,
        growth_steps=[epoch * steps_per_epoch for epoch in growth_epochs(args)],
    )
    decay = args.weight_decay / (1 - args.momentum) or None
    return keras.optimizers.SGD(rate, momentum=args.momentum, weight_decay=decay)


def growth_epochs(args: argparse.Namespace) -> list[int]:
    """Returns the numbers of completed epochs after which a network grows."""
    epochs = sorted(set(args.at)) if args.at else range(args.every, args.epochs, args.every)
    return [epoch for epoch in epochs if epoch < args.epochs]


def train(model, images: data.Data, args: argparse.Namespace, ends: float) -> runs.Run:
    """Trains, grows and tests the network, and returns the results."""
    meter = keras_grow.CostMeter(images.train_examples)
    backup = keras_grow.GrowthBackup(
        args.out / BACKUP, save_freq=args.save_every or "epoch", delete_checkpoint=False
    )
    history = model.fit(
        images.train,
        epochs=args.epochs,
        shuffle=False,  # the data do it
        validation_data=images.validation or images.test,
        validation_freq=args.test_every,
        callbacks=[
            meter,
            *images.callbacks,
            *following(args),
            LearningRate(),
            backup,
            TimeLimit(ends, backup),
        ],
        verbose=1 if sys.stdout.isatty() else 2,
    )
    test = model.evaluate(images.test, verbose=0, return_dict=True)
    return runs.Run.of(history, meter, test, "cifar", configuration(args))


class LearningRate(keras.callbacks.Callback):
    """Adds the learning rate to the logs of each epoch."""

    def on_epoch_end(self, epoch, logs=None) -> None:
        """Adds the rate of the last step."""
        logs["learning_rate"] = float(self.model.optimizer.learning_rate)


class TimeIsUpError(Exception):
    """Training has been stopped, and backed up."""


class TimeLimit(keras.callbacks.Callback):
    """Ends training when its time is up, as soon as it is backed up. Put it last.

    Args:
        ends: When, on the clock of `time.monotonic`.
        backup: The run's backup.
    """

    def __init__(self, ends: float, backup: keras_grow.GrowthBackup):
        super().__init__()
        self._ends, self._backup = ends, backup
        self._saving = False

    def on_train_batch_end(self, batch, logs=None) -> None:
        """Has the next step backed up, and ends after it."""
        if self._saving:
            raise TimeIsUpError
        if time.monotonic() > self._ends:
            self._backup.save_freq, self._saving = 1, True

    def on_epoch_end(self, epoch, logs=None) -> None:
        """Ends after an epoch, which is backed up, but for the last one."""
        if time.monotonic() > self._ends and epoch + 1 < self.params["epochs"]:
            raise TimeIsUpError


class Penalised(keras.callbacks.Callback):
    """Arms the penalty of a network that doesn't grow.

    Args:
        penalty: The penalty.
        epochs: The epochs at whose beginning it is armed.
    """

    def __init__(self, penalty: keras_grow.SimilarityPenalty, epochs: list[int]):
        super().__init__()
        self.penalty, self.epochs = penalty, epochs

    def on_epoch_begin(self, epoch, logs=None) -> None:
        """Arms it."""
        if epoch in self.epochs:
            self.model.arm(self.penalty)


def following(args: argparse.Namespace) -> list[keras.callbacks.Callback]:
    """Returns what grows the network, or does to a static one what follows a growth."""
    if not args.static:
        return [growth(args)]
    if args.static_penalty == "never" or not args.penalty:
        return []
    first = [0] if args.static_penalty == "always" else []
    return [Penalised(penalty(args), [*first, *growth_epochs(args)])]


def growth(args: argparse.Namespace) -> keras_grow.GrowthCallback:
    """Returns the callback that grows the network."""
    if not growth_epochs(args):
        given = f"--at {args.at}" if args.at else f"--every {args.every}"
        print(f"note: {given} leaves no growth within --epochs {args.epochs}")
    schedule = keras_grow.At(args.at) if args.at else args.every
    return keras_grow.GrowthCallback(
        args.rate, schedule, method(args), penalty(args) if args.penalty else None
    )


def method(args: argparse.Namespace) -> keras_grow.GrowthMethod:
    """Returns the growth method."""
    if args.method == "firefly":
        return keras_grow.methods.Firefly(pools=FIREFLY_POOLS.get(args.model))
    if args.noise is not None:  # `parse` has made sure that the method is this one
        return keras_grow.methods.Net2Wider(noise=args.noise)
    return keras_grow.methods.get(args.method)


def penalty(args: argparse.Namespace) -> keras_grow.SimilarityPenalty:
    """Returns the similarity penalty. The next growth ends it, and begins it anew."""
    epochs = args.penalty_epochs or PENALTY_EPOCHS.get(args.method, 15)
    if epochs > args.every and not args.at:
        print(f"note: the penalty lasts {args.every} epochs after a growth (--every), not {epochs}")
    given = {"weight": args.penalty_weight, "weight_sum": args.weight_sum}
    given = {name: value for name, value in given.items() if value is not None}
    return keras_grow.SimilarityPenalty(
        epochs=epochs,
        measure=args.measure,
        per=args.per,
        relative=args.relative,
        **given,
    )


def configuration(args: argparse.Namespace) -> dict:
    """Returns the arguments as JSON can hold them."""
    values = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()}
    return {**values, "width": args.width or MODELS[args.model][1]}


def summary(run: runs.Run) -> str:
    """Says in a few lines what came out, and of what."""
    asked = run.configuration
    how = "static" if asked["static"] else f"{asked['method']}, growths: {len(run.growth)}"
    if asked["penalty"] and not asked["static"]:
        how += ", with the penalty"
    return (
        f"{asked['model']} on {asked['dataset']} ({how}; schedule '{asked['schedule']}'): "
        f"test accuracy {100 * run.test_accuracy:.2f} %\n"
        f"{run.neurons:,} neurons, {run.parameters:,} parameters, "
        f"{run.training_flops / 1e12:,.2f} TFLOPs of training, {run.seconds['training']:,.1f} s "
        f"({run.seconds['choosing']:.1f} s choosing, {run.seconds['widening']:.1f} s widening)"
    )


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = common.parser(__doc__)
    _add_network(parser)
    _add_growth(parser)
    _add_training(parser)
    args = parser.parse_args(argv)
    if args.noise is not None and (args.static or args.method != "net2wider"):
        parser.error("--noise is of the copies that --method net2wider makes: add that")
    if args.static_penalty != "never" and not args.static:
        parser.error("--static-penalty is for a --static network: add --static")
    args.out = args.out or common.default_out("cifar")
    if (args.out / runs.RESULTS).exists():
        parser.error(f"--out {args.out} already holds results: name another folder")
    try:
        args.widths = final_widths(args)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    return args


def final_widths(args: argparse.Namespace) -> dict[str, int] | None:
    """Returns the widths that the run of `--widths-from` ended with, or `None` without it."""
    if args.static and bool(args.widths_from) == bool(args.width):
        raise ValueError("--static needs either --widths-from RESULTS.json or --width")
    if args.widths_from is None:
        return None
    if not args.static:
        raise ValueError("--widths-from is the size of a --static network: add --static")
    run = runs.read(args.widths_from)
    if run.configuration.get("model") != args.model:
        raise ValueError(
            f"--widths-from must be a run of --model {args.model}. Received: {args.widths_from}, "
            f"a run of {run.configuration.get('model')}"
        )
    return run.widths


def _add_network(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    switch = argparse.BooleanOptionalAction
    data.add_arguments(parser)
    add("--train-examples", type=common.positive_int, help="only the first so many in --data")
    add("--validation-examples", type=common.count, default=0, help="hold out so many")
    add("--model", choices=list(MODELS), default="vgg16", help="network")
    add("--width", type=common.positive_int, help="channels of each layer; vgg16 16, mobilenet 32")
    add("--static", action="store_true", help="don't grow: the baseline of a grown network")
    add("--widths-from", type=Path, help="results.json of a grown run; its size, for --static")
    add("--out", type=Path, help="folder for the results, if not runs/cifar-<time>")
    add("--seed", type=common.count, default=0, help="of every random draw")
    halves = {"choices": ["mixed_float16", "mixed_bfloat16"], "const": "mixed_float16"}
    add("--mixed-precision", nargs="?", **halves, help="compute in 16 bits")
    add("--jit-compile", action=switch, default="auto", help="XLA; auto: on a GPU, and with JAX")


def _add_growth(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    switch = argparse.BooleanOptionalAction
    methods = keras_grow.methods.NAMES
    add("--method", choices=methods, default="firefly", help="how to choose new neurons")
    add("--rate", type=common.positive, default=0.35, help="new neurons per old one")
    number = common.positive_int
    add("--every", type=number, default=50, help="epochs between growths")
    add("--at", type=number, nargs="+", help="grow after these epochs, not every so many")
    add("--penalty", action=switch, default=True, help="against similar neurons")
    add("--measure", choices=["cosine", "energy", "angle"], default="cosine", help="of a pair")
    add("--per", choices=["pair", "neuron"], default="pair", help="what --penalty-weight counts by")
    add("--relative", action="store_true", help="weights shrink with a loss below 1")
    add("--penalty-weight", type=common.non_negative, help="of the similarity; 1")
    add("--weight-sum", type=common.non_negative, help="lambda, of Eq. 4, if not the default")
    when = ["never", "windows", "always"]
    add("--static-penalty", choices=when, default="never", help="penalise with --static, too")
    add("--noise", type=common.non_negative, help="of net2wider's copies, if not the default")
    add("--penalty-epochs", type=common.positive_int, help="after a growth; the paper's by method")


def _add_training(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    schedules = ["cosine", "restarts", "hold"]
    add("--epochs", type=common.positive_int, default=250, help="of training")
    add("--test-every", type=common.positive_int, default=1, help="epochs between evaluations")
    add("--batch-size", type=common.positive_int, default=128, help="examples per step")
    add("--schedule", choices=schedules, default="cosine", help="of the learning rate")
    steps = STEPS_PER_EXECUTION[keras.config.backend()]
    number = common.positive_int
    add("--steps-per-execution", type=number, default=steps, help="between looks by Keras")
    add("--save-every", type=number, help="steps between backups, beside those of each epoch")
    add("--minutes", type=common.positive, help="stop after so many; the same command goes on")
    add("--learning-rate", type=common.positive, default=0.1, help="at the start")
    add("--momentum", type=common.fraction, default=0.9, help="of SGD")
    add("--weight-decay", type=common.non_negative, default=1e-4, help="factor of L2")


if __name__ == "__main__":
    try:
        main()
    except (data.DataError, ValueError) as error:
        sys.exit(str(error))
