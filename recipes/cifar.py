"""Trains a growing network on CIFAR-10 or CIFAR-100, with the paper's protocol as defaults.

    python recipes/cifar.py                                  # VGG16, 16 channels wide, 250 epochs
    python recipes/cifar.py --model mobilenet --dataset cifar100 --method random
    python recipes/cifar.py --train-examples 10000 --epochs 10 --every 2      # minutes, 2 cores
    python recipes/cifar.py --static --widths-from runs/.../results.json      # the baseline

A network that starts 16 (VGG16) or 32 (MobileNetV1) channels wide gets 35 % more neurons every 50
epochs; after each growth the similarity penalty is part of the loss for some epochs. SGD with
momentum 0.9, batches of 128, pad-crop and flip, learning rate 0.1 along one cosine.

Weight decay: `--weight-decay` is the factor of an L2 penalty in the gradient, as in the published
code. Keras's SGD decays the weights directly, by learning_rate * weight_decay, past the momentum,
which would have repeated each step of it 1 / (1 - momentum) times in all; so the optimizer gets
weight_decay / (1 - momentum), which decays as fast. Biases and normalisation decay too, as there.

Nothing is chosen by the test accuracy that is printed along the way (`--test-every`). Writes
`results.json` (see common.Run) and `model.keras` into --out. A run that was stopped goes on from
its last epoch, and ends as if it had not been: give the same command again, with its --out.

Reference: Sakai and Hotta, Growing Deep Neural Network Considering with Similarity between Neurons.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path

from quiet import quietly

with quietly():
    import common
    import data
    import keras

    import keras_grow

# Constructor, and the paper's width at the start.
MODELS = {
    "vgg16": (keras_grow.models.VGG16, 16),
    "mobilenet": (keras_grow.models.MobileNetV1, 32),
}
# The paper's best numbers of penalised epochs after a growth; 15 where it names none.
PENALTY_EPOCHS = {"random": 20, "splitting": 10, "firefly": 15}
# Groups that share a budget of their own, as in the published code; the other ten share the rest.
FIREFLY_POOLS = {"mobilenet": [["stem", *(f"block{n}_pointwise" for n in (1, 2, 3))]]}
# Folder within --out, there until the results are.
BACKUP = "backup"


def main(argv: list[str] | None = None) -> dict:
    """Runs the recipe with command-line arguments, and returns what it writes to the JSON."""
    args = parse(argv)
    keras.utils.set_random_seed(args.seed)
    images = load(args)
    asked = {k: v for k, v in configuration(args).items() if k not in ("out", "data_dir")}
    common.claim(args.out / BACKUP / "configuration.json", asked)
    with common.dtype_policy(args.mixed_precision):
        model = build_model(args, images)
        run = train(model, images, args)
    with common.replacing(args.out / "model.keras") as partial:
        model.save(partial)
    common.write_run(args.out / "results.json", run)
    shutil.rmtree(args.out / BACKUP)
    print(summary(run))
    print(f"results.json and model.keras are in {args.out}")
    return run.to_dict()


def load(args: argparse.Namespace) -> data.Data:
    """Loads the images that the arguments ask for."""
    return data.load(
        args.dataset,
        args.batch_size,
        args.data_dir,
        args.train_examples,
        args.validation_examples,
        args.seed,
    )


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
    )
    return model


def sgd(args: argparse.Namespace, steps_per_epoch: int) -> keras.optimizers.SGD:
    """Returns the optimizer. On the weight decay, see the head of this file."""
    return keras.optimizers.SGD(
        common.learning_rate(args, steps_per_epoch),
        momentum=args.momentum,
        weight_decay=args.weight_decay / (1 - args.momentum) or None,
    )


def train(model, images: data.Data, args: argparse.Namespace) -> common.Run:
    """Trains, grows and tests the network, and returns the results."""
    meter = common.Meter(images.train_examples)
    started = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    backup = keras_grow.GrowthBackup(args.out / BACKUP, delete_checkpoint=False)
    history = model.fit(
        images.train,
        epochs=args.epochs,
        shuffle=False,  # the pipeline does it
        validation_data=images.validation or images.test,
        validation_freq=args.test_every,
        callbacks=[meter, backup] if args.static else [meter, growth(args), backup],
        verbose=1 if sys.stdout.isatty() else 2,
    )
    seconds = common.seconds_of(meter, model.growth_history)
    test = model.evaluate(images.test, verbose=0, return_dict=True)
    return common.Run(
        recipe="cifar",
        configuration=configuration(args),
        versions=common.versions(),
        machine=common.machine(),
        started=started,
        history={**history.history, "seconds": meter.seconds, "training_flops": meter.flops},
        growth=[event.to_dict() for event in model.growth_history],
        seconds=seconds,
        training_flops=sum(meter.flops),
        widths=model.widths,
        neurons=model.neurons,
        parameters=sum(v.shape.num_elements() for v in model.trainable_variables),
        test_loss=test["loss"],
        test_accuracy=test["accuracy"],
    )


def growth(args: argparse.Namespace) -> keras_grow.GrowthCallback:
    """Returns the callback that grows the network."""
    if args.every >= args.epochs:
        print(f"note: --every {args.every} leaves no growth within --epochs {args.epochs}")
    return keras_grow.GrowthCallback(
        args.rate, args.every, method(args), penalty(args) if args.penalty else None
    )


def method(args: argparse.Namespace) -> keras_grow.GrowthMethod:
    """Returns the growth method."""
    if args.method == "firefly":
        return keras_grow.methods.Firefly(pools=FIREFLY_POOLS.get(args.model))
    return keras_grow.methods.get(args.method)


def penalty(args: argparse.Namespace) -> keras_grow.SimilarityPenalty:
    """Returns the similarity penalty, which lasts no longer than the way to the next growth."""
    epochs = args.penalty_epochs or PENALTY_EPOCHS.get(args.method, 15)
    if epochs > args.every:
        print(f"note: the penalty lasts {args.every} epochs after a growth (--every), not {epochs}")
    given = {"weight": args.penalty_weight, "weight_sum": args.weight_sum}
    given = {name: value for name, value in given.items() if value is not None}
    return keras_grow.SimilarityPenalty(epochs=min(epochs, args.every), **given)


def configuration(args: argparse.Namespace) -> dict:
    """Returns the arguments as JSON can hold them."""
    values = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()}
    return {**values, "width": args.width or MODELS[args.model][1]}


def summary(run: common.Run) -> str:
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
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    _add_network(parser)
    _add_growth(parser)
    _add_training(parser)
    args = parser.parse_args(argv)
    args.out = args.out or common.default_out("cifar")
    if (args.out / "results.json").exists():
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
    run = common.read_run(args.widths_from)
    if run.configuration.get("model") != args.model:
        raise ValueError(
            f"--widths-from must be a run of --model {args.model}. Received: {args.widths_from}, "
            f"a run of {run.configuration.get('model')}"
        )
    return run.widths


def _add_network(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    switch = argparse.BooleanOptionalAction
    add("--dataset", choices=list(data.STATISTICS), default="cifar10", help="what to learn")
    add("--data-dir", help="folder of TensorFlow Datasets, if not its default")
    add("--train-examples", type=common.positive_int, help="train on the first so many only")
    add("--validation-examples", type=common.count, default=0, help="hold out so many")
    add("--model", choices=list(MODELS), default="vgg16", help="network")
    add("--width", type=common.positive_int, help="channels of each layer; vgg16 16, mobilenet 32")
    add("--static", action="store_true", help="don't grow: the baseline of a grown network")
    add("--widths-from", type=Path, help="results.json of a grown run; its size, for --static")
    add("--out", type=Path, help="folder for the results, if not runs/cifar-<time>")
    add("--seed", type=common.count, default=0, help="of every random draw")
    add(
        "--mixed-precision",
        nargs="?",
        choices=["mixed_float16", "mixed_bfloat16"],
        const="mixed_float16",
        help="compute in 16 bits",
    )
    add("--jit-compile", action=switch, default="auto", help="XLA; auto: on a GPU")


def _add_growth(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    switch = argparse.BooleanOptionalAction
    methods = keras_grow.methods.NAMES
    add("--method", choices=methods, default="firefly", help="how to choose new neurons")
    add("--rate", type=common.positive, default=0.35, help="new neurons per old one")
    add("--every", type=common.positive_int, default=50, help="epochs between growths")
    add("--penalty", action=switch, default=True, help="against similar neurons")
    add("--penalty-weight", type=common.non_negative, help="of Eq. 2, if not the default")
    add("--weight-sum", type=common.non_negative, help="lambda, of Eq. 4, if not the default")
    add("--penalty-epochs", type=common.positive_int, help="after a growth; the paper's by method")


def _add_training(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    schedules = ["cosine", "restarts", "hold"]
    add("--epochs", type=common.positive_int, default=250, help="of training")
    add("--test-every", type=common.positive_int, default=1, help="epochs between evaluations")
    add("--batch-size", type=common.positive_int, default=128, help="examples per step")
    add("--schedule", choices=schedules, default="cosine", help="of the learning rate")
    add("--learning-rate", type=common.positive, default=0.1, help="at the start")
    add("--momentum", type=common.fraction, default=0.9, help="of SGD")
    add("--weight-decay", type=common.non_negative, default=1e-4, help="factor of L2")


if __name__ == "__main__":
    try:
        main()
    except (data.DataError, ValueError) as error:
        sys.exit(str(error))
