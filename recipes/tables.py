"""Runs the paper's Tables 1, 2 and 3, and prints ours beside the paper's.

    python recipes/tables.py --preset quick --jobs 2               # 2 cores: about 1 1/2 hours
    python recipes/tables.py --preset quick --only vgg16 random firefly --seeds 0 1 2 3 4
    python recipes/tables.py --preset fifth --only cifar10 vgg16   # 50 epochs, all images: days
    python recipes/tables.py --preset paper --tables 1 2 3         # 250 epochs, all images: a GPU
    python recipes/tables.py --preset paper --backend jax --data cifar10.npz --minutes 10
    python recipes/tables.py --only random net2wider neither apart \
      --setting apart "--measure angle --per neuron --relative --penalty-weight 0.05 --weight-sum 0"

Table 1 is CIFAR-10, Table 2 CIFAR-100: growth methods x networks, without and with the similarity
penalty. Table 3 has each term of the penalty alone. Two rows are added to the paper's: the final
size (of `random` without penalty) from the start, for as many epochs and for at least as many
training floating-point operations. `--setting` adds a row to each method, with other options of
recipes/cifar.py, `--static-setting` one to each kind of the final size; options that are one word
take a space before it: " --no-penalty". What is chosen by comparing rows is chosen by held-out
images (`--validation-examples`).

Each cell is a run of recipes/cifar.py in a process and a folder of its own. What is stopped, by
`--minutes` or otherwise, is taken up again by the same command: finished cells are kept, the
others go on where they were. Nothing is chosen by the test accuracy. Writes into --out: tables.md
and tables.json, of the rows that were asked for last and are finished, and a folder for each cell,
with its results, its model, and what it printed (log.txt).

Reference: Sakai and Hotta, Growing Deep Neural Network Considering with Similarity between Neurons:
test accuracy in per cent, training seconds on one GTX 1080 Ti.
"""

from __future__ import annotations

import argparse
import math
import re
import signal
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from types import MappingProxyType

import common
from cells import STATIC, CellError, Cells, Row, finished

from keras_grow import runs

METHODS = ("random", "net2wider", "splitting", "firefly", "gradmax")
# Which terms of the penalty are in the loss: its name in a table, and options of cifar.py.
SETTINGS = {
    "neither": ("-", ["--no-penalty"]),
    "weight_sum": ("weight sum (Eq. 4)", ["--penalty", "--penalty-weight", "0"]),
    "similarity": ("similarity (Eq. 3)", ["--penalty", "--weight-sum", "0"]),
    "both": ("both (Eq. 5)", ["--penalty"]),
}
Settings = Mapping[str, tuple[str, list[str]]]
# The paper's Eq. 5 has no weight for the similarity; its lambda isn't published.
PRESETS = {
    "paper": "epochs=250 every=50 penalty-weight=1.0 weight-sum=0.01 schedule=cosine",
    "fifth": "epochs=50 every=10 penalty-epochs=3 penalty-weight=1.0 weight-sum=0.01 schedule=hold",
    "quick": "train-examples=3000 epochs=15 every=3 penalty-epochs=2 test-every=15 "
    "penalty-weight=1.0 weight-sum=0.01 schedule=hold",
}
# Options that take the place of the preset's.
GIVEN = (
    "train-examples validation-examples epochs every width penalty-weight weight-sum schedule"
).split()
# Tables 1 and 2: without and with the penalty, accuracy and seconds.
PUBLISHED = """
cifar10  vgg16     random    86.49  3022 86.85  3090
cifar10  vgg16     splitting 89.12  6146 90.08  6176
cifar10  vgg16     firefly   90.60  3375 91.70  3409
cifar10  mobilenet random    87.90  1240 88.29  1264
cifar10  mobilenet splitting 89.92  3191 90.83  3370
cifar10  mobilenet firefly   91.89  1630 92.56  1670
cifar100 vgg16     random    61.77  6612 62.09  6680
cifar100 vgg16     splitting 63.90 13560 64.52 13790
cifar100 vgg16     firefly   64.74  5307 65.55  5360
cifar100 mobilenet random    62.89  2690 63.10  2842
cifar100 mobilenet splitting 65.71  7167 66.16  7250
cifar100 mobilenet firefly   66.42  3673 67.49  3690
"""
# Table 3 (CIFAR-10, VGG16): only the weight-sum term, only the similarity term.
ABLATION = """
cifar10  vgg16     random    86.49  3030 86.67  3077
cifar10  vgg16     splitting 89.12  6149 89.58  6171
cifar10  vgg16     firefly   91.60  3379 91.51  3402
"""


def published() -> dict[Row, tuple[float, float]]:
    """Returns accuracy and seconds of each row that the paper has."""
    found = {}
    for text, settings in ((PUBLISHED, ("neither", "both")), (ABLATION, list(SETTINGS)[1:3])):
        for line in text.split("\n")[1:-1]:
            *names, a, b, c, d = line.split()
            for setting, numbers in zip(settings, ((a, b), (c, d)), strict=True):
                found[Row(*names, setting)] = tuple(map(float, numbers))
    return found


PAPER = published()


def main(argv: list[str] | None = None) -> dict:
    """Runs the recipe with command-line arguments, and returns what it writes to the JSON."""
    args = parse(argv)
    common.claim(args.out / "protocol.json", args.protocol)
    for name, (_, how) in args.settings.items():
        if name not in SETTINGS:
            common.claim(args.out / f"setting-{name}.json", {"options": how})
    options = " ".join(f"--{name} {value}" for name, value in args.protocol.items())
    what = f"preset '{args.preset}', recipes/cifar.py {options}"
    print(f"{len(args.rows)} rows of {len(args.seeds)} runs each: {what}", flush=True)
    for static in (False, True):  # static rows need the sizes of grown ones
        cells = [(r, s) for s in args.seeds for r in args.rows if bool(r.size_of) is static]
        Cells(args).run(cells)
    found = collect(args.rows, args.seeds, args.out)
    result = {
        "protocol": args.protocol,
        "seeds": args.seeds,
        "versions": runs.versions(),
        "machine": runs.machine(),
        "rows": found,
    }
    text = f"{what}, seeds {' '.join(map(str, args.seeds))}\n\n{tables(found, args.settings)}"
    common.write_json(args.out / "tables.json", result)
    (args.out / "tables.md").write_text(text + "\n")
    print(f"\n{text}\n\ntables.md and tables.json are in {args.out}")
    if len(found) < len(args.rows):
        print(f"{len(found)} of {len(args.rows)} rows are finished; the same command goes on")
    return result


def collect(rows: Iterable[Row], seeds: Sequence[int], folder: Path) -> list[dict]:
    """Sums up the runs of each row that is finished: means over the seeds, but for accuracies.

    Returns:
        For each row its names and `accuracies`, `mean`, `deviation`; `seconds` of training, of it
        for `choosing` neurons, and more than without `penalty`; `neurons`, `parameters`, `flops`,
        `similarity` at the end, neurons taken without a helping score (`unhelpful`); the `gain` in
        accuracy over the same seed without penalty; and the `paper`'s result.
    """
    found: dict[Row, list[runs.Run]] = {}
    for row in rows:
        folders = [folder / row.folder(seed) for seed in seeds]
        if all(map(finished, folders)):
            found[row] = [runs.read(each) for each in folders]
    return [_summary(row, found) for row in found]


def _summary(row: Row, found: dict[Row, list[runs.Run]]) -> dict:
    of_row, plain = found[row], found.get(row._replace(setting="neither"))
    accuracies = [100 * run.test_accuracy for run in of_row]
    seconds = mean(run.seconds["training"] for run in of_row)
    last = [run.history.get("similarity", [None])[-1] for run in of_row]
    compared = plain if row.setting != "neither" else None
    return {
        "row": row._asdict(),
        "accuracies": accuracies,
        "mean": mean(accuracies),
        "held_out": _held_out(of_row),
        "deviation": stdev(accuracies) if len(accuracies) > 1 else None,
        "seconds": seconds,
        "choosing": mean(run.seconds["choosing"] for run in of_row),
        "penalty": compared and seconds - mean(run.seconds["training"] for run in compared),
        "neurons": mean(run.neurons for run in of_row),
        "parameters": mean(run.parameters for run in of_row),
        "flops": mean(run.training_flops for run in of_row),
        "similarity": None if None in last else mean(last),  # a run may have broken down
        "unhelpful": mean(sum(event["unhelpful"] for event in run.growth) for run in of_row),
        "gain": compared
        and [a - 100 * run.test_accuracy for a, run in zip(accuracies, compared, strict=True)],
        "paper": dict(zip(("accuracy", "seconds"), PAPER[row], strict=True))
        if row in PAPER
        else None,
    }


def _held_out(of_row: Sequence[runs.Run]) -> float | None:
    """Returns the mean accuracy on held-out images after the last epoch, if there were any."""
    if not all(run.configuration.get("validation_examples") for run in of_row):
        return None
    return 100 * mean(run.history["val_accuracy"][-1] for run in of_row)


def tables(found: Sequence[dict], settings: Settings = SETTINGS) -> str:
    """Lays the results out as Markdown, a table for each data set and network."""
    parts = []
    for place in dict.fromkeys((each["row"]["dataset"], each["row"]["model"]) for each in found):
        chosen = [e for e in found if (e["row"]["dataset"], e["row"]["model"]) == place]
        head = (
            "method | penalty | runs | accuracy | held out | paper | seconds | choosing | "
            "penalty (s) | paper (s) | parameters | TFLOPs | similarity | unhelpful"
        )
        lines = [_markdown(head.split(" | "), (_line(each, settings) for each in chosen))]
        gained = [e for e in chosen if e["gain"]]
        if gained:
            used = dict.fromkeys(each["row"]["setting"] for each in gained)
            names = [name for name in settings if name in used]
            lines.append("What the penalty adds, seed by seed:")
            head = ["method", *(settings[name][0] for name in names)]
            lines.append(_markdown(head, _gains(gained, names)))
        parts += [f"### {place[1]} on {place[0]}", *lines]
    parts.append(
        "Accuracies are mean ± standard deviation over the seeds, in per cent of the test split, "
        "measured after the last epoch. Seconds are those of training, growths included, as they "
        'were on this machine with so many cells at a time; "penalty" is the difference to the '
        "same row without it. The paper's columns are of its protocol (250 epochs, one GTX 1080 "
        "Ti): the distance to it is that of the protocols, not of the methods."
    )
    return "\n\n".join(parts)


def _line(each: dict, settings: Settings) -> list[str]:
    def text(name: str, form: str, scale: float = 1) -> str:
        return "-" if each[name] is None else format(each[name] / scale, form)

    spread = f" ± {each['deviation']:.2f}" if each["deviation"] is not None else ""
    paper = each["paper"]
    return [
        each["row"]["method"],
        settings[each["row"]["setting"]][0],
        str(len(each["accuracies"])),
        f"{each['mean']:.2f}{spread}",
        text("held_out", ".2f"),
        f"{paper['accuracy']:.2f}" if paper else "-",
        text("seconds", ",.0f"),
        text("choosing", ",.1f"),
        text("penalty", "+,.1f"),
        f"{paper['seconds']:,.0f}" if paper else "-",
        text("parameters", ",.0f"),
        text("flops", ",.2f", 1e12),
        text("similarity", ".3f"),
        text("unhelpful", ".0f"),
    ]


def _gains(gained: Sequence[dict], names: Sequence[str]) -> list[list[str]]:
    """Returns a line for each method: the gain of each setting, and its standard error."""
    lines: dict[str, list[str]] = {}
    for each in gained:
        gain = each["gain"]
        text = " ".join(f"{value:+.2f}" for value in gain)
        if len(gain) > 1:
            text = f"{mean(gain):+.2f} ± {stdev(gain) / math.sqrt(len(gain)):.2f} ({text})"
        line = lines.setdefault(each["row"]["method"], [each["row"]["method"], *["-"] * len(names)])
        line[1 + names.index(each["row"]["setting"])] = text
    return list(lines.values())


def _markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def rows_of(
    tables: Iterable[int],
    grown: Settings = MappingProxyType({}),
    static: Settings = MappingProxyType({}),
) -> list[Row]:
    """Returns the rows of the paper's tables 1, 2 or 3, each once, with the rows that it lacks.

    Args:
        tables: Their numbers.
        grown: Settings of one's own, each a row more of each method, or of the one that it names.
        static: Settings of one's own, each a row more of each kind of the final size.
    """
    rows = []
    for table in sorted(tables):
        dataset = "cifar100" if table == 2 else "cifar10"
        for model in ("vgg16", "mobilenet") if table < 3 else ("vgg16",):
            for method in (*METHODS, *STATIC):
                fitting = [n for n, (_, asked) in grown.items() if _fits(asked, method)]
                settings = ["neither", *(static if method in STATIC else ["both", *fitting])]
                rows += [
                    Row(dataset, model, method, setting)
                    for setting in (settings if table < 3 else SETTINGS)
                    if table < 3 or Row(dataset, model, method, setting) in PAPER
                ]
    return list(dict.fromkeys(rows))


def _fits(options: Sequence[str], method: str) -> bool:
    """Tells whether options of recipes/cifar.py may go with a method: --noise is of one."""
    return method == "net2wider" or "--noise" not in _names(options)


def _names(options: Iterable[str]) -> set[str]:
    return {option.partition("=")[0] for option in options}


def _own(given: Iterable[tuple[str, str]], taken: Iterable[str], other: str) -> Settings:
    """Returns settings of one's own by their names.

    Args:
        given: Names and options.
        taken: Names that others have.
        other: An option that is for the other kind of rows.

    Raises:
        ValueError: if a name is taken, or can't be part of a folder's, or the options are wrong.
    """
    found: dict[str, tuple[str, list[str]]] = {}
    for name, options in given:
        if name in (*taken, *found) or not re.fullmatch(r"[\w.]+", name):
            raise ValueError(
                "a setting's name must be of letters, digits, `_` and `.`, and be none of "
                f"{' '.join((*taken, *found))}. Received: {name}"
            )
        if other in _names(options.split()):
            raise ValueError(f"setting {name}: {other} is not for rows of this kind")
        found[name] = name, ["--penalty", *options.split()]
    return found


def only(rows: Sequence[Row], names: Sequence[str]) -> list[Row]:
    """Keeps the rows that match some names, and the grown ones that static ones need.

    Of each kind that is named (data sets, networks, methods, settings), one must match.

    Raises:
        ValueError: if a name is unknown, or nothing is left.
    """
    kinds = [set(column) for column in zip(*rows, strict=True)]
    known = sorted(set().union(*kinds))
    unknown = sorted({*names} - {*known})
    if unknown:
        raise ValueError(
            f"--only must name some of {' '.join(known)}. Received: {' '.join(unknown)}"
        )
    kept = [
        row
        for row in rows
        if all(name in names or not kind & {*names} for name, kind in zip(row, kinds, strict=True))
    ]
    if not kept:
        raise ValueError(f"--only {' '.join(names)} leaves no row")
    return list(dict.fromkeys([*kept, *(row.size_of for row in kept if row.size_of)]))


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = common.parser(__doc__)
    add, count, number = parser.add_argument, common.positive_int, common.non_negative
    add("--preset", choices=list(PRESETS), default="quick", help="how long, on how many images")
    add("--tables", type=int, nargs="+", choices=[1, 2, 3], default=[1, 3], help="which tables")
    add("--only", nargs="+", default=[], help="data sets, networks, methods or settings to keep")
    add("--seeds", type=common.count, nargs="+", default=[0, 1, 2], help="one run each")
    add("--schedule", choices=["cosine", "restarts", "hold"], help="paper: cosine; hold")
    own = {"nargs": 2, "action": "append", "default": [], "metavar": ("NAME", "OPTIONS")}
    add("--setting", **own, help="a row more of each method, with its name and its options")
    add("--static-setting", **own, help="a row more of each kind of the final size")
    add("--train-examples", type=count, help="instead of the preset's")
    add("--validation-examples", type=count, help="hold out so many training images")
    add("--epochs", type=count, help="instead of the preset's")
    add("--every", type=count, help="instead of the preset's")
    add("--width", type=count, help="of each layer at the start; vgg16 16")
    add("--penalty-weight", type=number, help="of Eq. 2; as in Eq. 5, 1")
    add("--weight-sum", type=number, help="lambda, of Eq. 4; 0.01")
    add("--jobs", type=count, default=1, help="cells at a time")
    add("--minutes", type=common.positive, default=math.inf, help="stop; the same command goes on")
    add("--data", "--data-dir", type=Path, help="see recipes/cifar.py")
    add("--out", type=Path, help="folder to write to, or to go on in; runs/tables-<preset>")
    args = parser.parse_args(argv)
    args.ends = time.monotonic() + 60 * args.minutes
    args.out = args.out or Path("runs") / f"tables-{args.preset}"
    chosen = dict(pair.split("=") for pair in PRESETS[args.preset].split())
    given = {name: getattr(args, name.replace("-", "_")) for name in GIVEN}
    chosen |= {name: str(value) for name, value in given.items() if value is not None}
    if "test-every" in chosen:
        chosen["test-every"] = chosen["epochs"]
    chosen |= {"data": str(args.data)} if args.data else {}  # other images, other accuracies
    args.protocol = {"backend": args.backend, **chosen}
    try:
        grown = _own(args.setting, SETTINGS, "--static-penalty")
        static = _own(args.static_setting, [*SETTINGS, *grown], "--noise")
        args.settings = {**SETTINGS, **grown, **static}
        args.rows = only(rows_of(args.tables, grown, static), args.only)
    except ValueError as error:
        parser.error(str(error))
    return args


if __name__ == "__main__":
    # A recipe that is told to end ends its cells, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        main()
    except (CellError, ValueError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on")
