"""Shows where trained networks look, and measures how much that says: Figures 4 and 5.

    python recipes/saliency.py --models runs/a/model.keras runs/b/model.keras \\
        --names firefly "firefly + penalty" --out figures
    python recipes/saliency.py --models ... --method gradcam gradcam++ scorecam --layer conv7

A figure for each method: a column for each class with its first image of the test split, a row for
the image and one for each model. A few pictures prove nothing, so the recipe also measures, over
the first images of the test split (`--examples`), each map being that of the image's own class:

- coverage: the share of the image where the map is at least `--threshold` of its largest value;
- deletion: the pixels go, the most salient first, and become the mean colour. The area under the
  probability of the class; low where the map is right.
- insertion: the pixels come back, the most salient first, into the image blurred by a Gaussian of
  an eighth of its height. The area under the probability of the class; high where the map is right.

Both depend on how sure the model is at all, and on how a map is made: pixels that go in patches,
as a smooth map orders them, leave more of the texture than pixels that go one by one. So the table
has "gains": how much better a map is than that of another image (the one before), which is as
smooth and knows nothing of this one; and the probability of the class before anything is changed.
A standard error is over the images; where models are compared, it is that of their difference on
the same images. It doesn't know of how much models differ that only differ in their seeds.

Writes `saliency.json` and one `<method>.png` for each method into --out.

References: Selvaraju et al., Grad-CAM; Petsiuk, Das and Saenko, RISE (deletion and insertion).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import common
import data
import keras
import numpy as np

from keras_grow import plots, runs, saliency
from keras_grow.saliency import SALIENCY_METHODS, feature_layer, saliency_maps

COLUMNS = 10  # classes in a figure that is as wide as a page
AREAS = {"deletion": -1, "insertion": 1}  # the sign of what is better
MEASURES = ("coverage", *AREAS)


class Images(NamedTuple):
    """A test split: normalised images `(images, 32, 32, 3)`, labels, and the classes' names."""

    pixels: np.ndarray
    labels: np.ndarray
    names: list[str]


def main(argv: list[str] | None = None) -> dict:
    """Runs the recipe with command-line arguments, and returns what it writes to the JSON."""
    args = parse(argv)
    images = load_images(args)
    models = load_models(args, images)
    few = Images(images.pixels[: args.examples], images.labels[: args.examples], images.names)
    args.out.mkdir(parents=True, exist_ok=True)
    figures = {method: draw(models, images, method, args) for method in args.method}
    results = measure(models, few, args)
    for method, figure in figures.items():
        figure.savefig(args.out / f"{method}.png", dpi=150)
    content = {
        "format": "keras_grow.saliency",
        "version": 2,
        "configuration": configuration(args, few),
        "versions": runs.versions(),
        "machine": runs.machine(),
        "results": results,
    }
    common.write_json(args.out / "saliency.json", content)
    print(table(results, args))
    print(f"\nsaliency.json and {', '.join(f'{m}.png' for m in args.method)} are in {args.out}")
    return content


def load_images(args: argparse.Namespace) -> Images:
    """Reads the whole test split, in order."""
    _, test = data.read(args.dataset, args.data)
    scale, offset = data.scale_and_offset(args.dataset)
    pixels = test.images.astype("float32") * scale + offset
    return Images(pixels, test.labels, data.CLASSES[args.dataset])


def load_models(args: argparse.Namespace, images: Images) -> dict[str, keras.Model]:
    """Loads every model, and makes sure of each before anything is computed.

    Raises:
        ValueError: if a file is no model, or a model doesn't fit the images or has no such layer.
    """
    models = {}
    for name, path in zip(args.names, args.models, strict=True):
        model = common.load_model(path)
        classes = model.output_shape[-1]
        if model.input_shape[1:] != images.pixels.shape[1:] or classes != len(images.names):
            raise ValueError(
                f"{path} must take images of shape {images.pixels.shape[1:]} and know the "
                f"{len(images.names)} classes of {args.dataset}. Received: a model with inputs of "
                f"shape {model.input_shape[1:]} and {classes} outputs"
            )
        feature_layer(model, args.layer)
        models[name] = model
    return models


def draw(models: dict, images: Images, method: str, args: argparse.Namespace):
    """Draws the first image of each class, and where each model looks."""
    classes = [c for c in range(len(images.names)) if c in images.labels][:COLUMNS]
    first = [int(np.argmax(images.labels == each)) for each in classes]
    return plots.saliency_grid(
        models, images.pixels[first], classes, method, images.names, args.layer
    )


def measure(models: dict, images: Images, args: argparse.Namespace) -> list[dict]:
    """Returns one entry for each method and model."""
    results = []
    for method in args.method:
        of_first = None
        for (name, model), path in zip(models.items(), args.models, strict=True):
            values = measure_model(model, images, method, args)
            of_first = of_first or values
            results.append(
                {
                    "method": method,
                    "model": name,
                    "path": str(path),
                    "layer": feature_layer(model, args.layer).name,
                    "positions": list(feature_layer(model, args.layer).output.shape[1:3]),
                    "empty_maps": int(np.sum(values["largest"] == 0)),
                    **{k: estimated(v) for k, v in values.items() if k != "largest"},
                    "compared_with_the_first": {
                        each: estimated(values[each] - of_first[each]) for each in MEASURES
                    },
                }
            )
    return results


def measure_model(model, images: Images, method: str, args: argparse.Namespace) -> dict:
    """Returns name -> one value an image."""
    pixels, labels, _ = images
    maps = saliency_maps(model, pixels, labels, method, args.layer)
    blank, blur = np.zeros_like(pixels), saliency.blurred(pixels, pixels.shape[1] / 8)

    def probabilities(batch: np.ndarray) -> np.ndarray:
        logits = model.predict(batch, batch_size=100, verbose=0).astype("float32")
        return keras.ops.convert_to_numpy(keras.ops.softmax(logits))

    def area(name: str, maps: np.ndarray) -> np.ndarray:
        way = {"deletion": (pixels, blank), "insertion": (blur, pixels)}[name]
        curve = saliency.probability_curve(probabilities, *way, maps, labels, args.steps)
        return saliency.area(curve)

    areas = {name: area(name, maps) for name in AREAS}
    of_another = np.roll(maps, 1, axis=0)
    gains = {f"{n}_gain": sign * (areas[n] - area(n, of_another)) for n, sign in AREAS.items()}
    intact = probabilities(pixels)
    return {
        "coverage": saliency.coverage(maps, args.threshold),
        "largest": maps.max(axis=(1, 2)),
        **areas,
        **gains,
        "probability": intact[np.arange(len(labels)), labels],
        "accuracy": intact.argmax(axis=-1) == labels,
    }


def estimated(values: np.ndarray) -> dict[str, float]:
    """Returns mean and standard error, as JSON can hold them."""
    return saliency.estimate(values)._asdict()


def configuration(args: argparse.Namespace, images: Images) -> dict:
    """Returns the arguments as JSON can hold them, with the number of images that there are."""
    values = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()}
    values["models"] = [str(path) for path in args.models]
    return {**values, "examples": len(images.labels)}


def table(results: list[dict], args: argparse.Namespace) -> str:
    """Returns the results as a Markdown table."""
    lines = [
        f"Mean and standard error over {args.examples} test images; covered: at least "
        f"{args.threshold:g} of the map's largest value.",
        "",
        "| method | model | coverage % | deletion | insertion | gain in deletion "
        "| gain in insertion | probability | accuracy % | empty maps |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in results:
        cells = [
            SALIENCY_METHODS[row["method"]],
            row["model"],
            _cell(row["coverage"], percent=True),
            *(_cell(row[name]) for name in AREAS),
            *(_cell(row[f"{name}_gain"], sign="+") for name in AREAS),
            _cell(row["probability"]),
            _cell(row["accuracy"], percent=True),
            str(row["empty_maps"]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
        if row["model"] != args.names[0]:
            difference = row["compared_with_the_first"]
            cells = [_cell(difference[m], percent=m == "coverage", sign="+") for m in MEASURES]
            lines.append(f"| | *less {args.names[0]}* | {' | '.join(cells)} | | | | | |")
    return "\n".join(lines)


def _cell(value: dict, percent: bool = False, sign: str = "") -> str:
    scale, digits = (100, 1) if percent else (1, 3)
    return f"{scale * value['mean']:{sign}.{digits}f} ± {scale * value['error']:.{digits}f}"


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = common.parser(__doc__)
    add = parser.add_argument
    methods = list(SALIENCY_METHODS)
    add("--models", type=Path, nargs="+", required=True, help="saved models (.keras)")
    add("--names", nargs="+", help="what to call them, if not by their folders")
    add("--method", choices=methods, nargs="+", default=["gradcam"], help="one figure for each")
    where = "convolution's number or layer's name; by default the last of 4 x 4 or larger"
    add("--layer", type=common.layer, help=where)
    add("--examples", type=common.positive_int, default=300, help="test images to measure on")
    add("--threshold", type=common.positive, default=0.5, help="of the map, from where it covers")
    add("--steps", type=common.positive_int, default=16, help="of deletion and insertion")
    data.add_arguments(parser)
    add("--out", type=Path, help="folder for the results, if not runs/saliency-<time>")
    args = parser.parse_args(argv)
    args.out = args.out or common.default_out("saliency")
    try:
        check(args)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    return args


def check(args: argparse.Namespace) -> None:
    """Checks what argparse can't, and names the models."""
    args.names = args.names or [path.parent.name or path.stem for path in args.models]
    if len(args.names) != len(args.models) or len(set(args.names)) != len(args.names):
        raise ValueError(
            "--names must have one name a model, all different. Received: "
            f"{len(args.models)} models, names {args.names}"
        )
    for path in args.models:
        if not path.is_file():
            raise FileNotFoundError(f"--models: there is no file {path}")
    if args.examples < 2:
        raise ValueError("--examples must be at least 2, for a standard error")
    if args.threshold > 1:
        raise ValueError(f"--threshold must be at most 1. Received: {args.threshold}")
    names = ["saliency.json", *(f"{method}.png" for method in args.method)]
    taken = [name for name in names if (args.out / name).exists()]
    if taken:
        raise ValueError(f"--out {args.out} already holds {', '.join(taken)}: name another folder")


if __name__ == "__main__":
    try:
        main()
    except (data.DataError, ValueError) as error:
        sys.exit(str(error))
