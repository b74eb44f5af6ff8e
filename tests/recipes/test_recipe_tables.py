import contextlib
import json
import threading
import types

import pytest
from small_cifar import recipe, small_network, write_npz

from keras_grow import runs

tables, cells, cifar = recipe("tables"), recipe("cells"), recipe("cifar")

PRESET = "train-examples=100 epochs=2 every=1 batch-size=64 test-every=2"
ROWS = ["--only", "vgg16", "random", "static-flops", "neither", "--tables", "1", "--seeds", "0"]
FOLDERS = [f"cifar10-vgg16-{method}-neither-seed0" for method in ("random", "static-flops")]


class InProcess:
    """Takes the place of a cell's process: runs it here, and now."""

    def __init__(self, command, stdout, **kwargs):
        try:
            with contextlib.redirect_stdout(stdout):
                cifar.main(command[2:])
            self.code = 0
        except (SystemExit, ValueError) as error:
            stdout.write(f"{error}\n")
            self.code = 1

    def wait(self):
        return self.code


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(cifar.MODELS, "vgg16", (small_network, 4))
        patch.setitem(tables.PRESETS, "quick", PRESET)
        patch.setattr(cells.subprocess, "Popen", InProcess)
        yield write_npz(tmp_path_factory.mktemp("cifar10"), "cifar10", 150, 50)


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """Folder, options and results of a run of two cells, stopped as soon as it began."""
    out = tmp_path_factory.mktemp("tables") / "out"
    options = [*ROWS, "--data", str(data), "--out", str(out)]
    first = tables.main([*options, "--minutes", "1e-6"])
    assert first["rows"] == []
    return out, options, tables.main(options)


def test_rows_of_the_tables():
    rows = tables.rows_of([1, 3])
    assert len(rows) == 2 * (5 * 2 + 2) + 3 * 2  # Table 3 adds each term alone, of three methods
    assert len(set(rows)) == len(rows)
    assert {row.dataset for row in tables.rows_of([2])} == {"cifar100"}
    for row in tables.rows_of([1, 2, 3]):
        assert (row in tables.PAPER) == (row.method in ("random", "splitting", "firefly"))


def test_published_numbers():
    found = [
        tables.PAPER.get(cells.Row(*names.split()))
        for names in (
            "cifar10 vgg16 firefly both",
            "cifar100 mobilenet splitting neither",
            "cifar10 vgg16 firefly weight_sum",
            "cifar10 vgg16 splitting similarity",
            "cifar100 vgg16 firefly weight_sum",
        )
    ]
    assert found == [(91.70, 3409), (65.71, 7167), (91.60, 3379), (89.58, 6171), None]


def test_only_keeps_what_matches_each_kind():
    rows = tables.rows_of([1])
    kept = tables.only(rows, ["vgg16", "firefly", "gradmax", "both"])
    assert [(r.model, r.method, r.setting) for r in kept] == [
        ("vgg16", "firefly", "both"),
        ("vgg16", "gradmax", "both"),
    ]
    assert tables.only(rows, []) == rows
    with pytest.raises(ValueError, match="Received: resnet"):
        tables.only(rows, ["vgg16", "resnet"])
    with pytest.raises(ValueError, match="leaves no row"):
        tables.only(rows, ["static-flops", "both"])


def test_noise_is_a_setting_of_copies_alone():
    rows = tables.rows_of([1], {"noisy": ("noisy", ["--noise=0.5"])})
    assert {row.method for row in rows if row.setting == "noisy"} == {"net2wider"}


@pytest.mark.parametrize("name", ["both", "a/b", "twice"])
def test_names_of_settings(name, capsys):
    with pytest.raises(SystemExit):
        tables.parse(["--setting", "twice", " --no-penalty", "--static-setting", name, " "])
    assert "a setting's name must be of letters" in capsys.readouterr().err


@pytest.mark.parametrize(
    "given",
    [["--setting", "a", "--static-penalty always"], ["--static-setting", "a", " --noise=1"]],
)
def test_options_of_the_other_kind_of_rows(given, capsys):
    with pytest.raises(SystemExit):
        tables.parse(given)
    assert "is not for rows of this kind" in capsys.readouterr().err


def test_a_setting_whose_options_have_changed(tmp_path):
    rows = ["--only", "vgg16", "random", "own", "--out", str(tmp_path), "--minutes", "0.00001"]
    tables.main([*rows, "--setting", "own", "--penalty-weight 0.1"])
    with pytest.raises(tables.common.FolderError, match="is of another configuration"):
        tables.main([*rows, "--setting", "own", "--penalty-weight 0.3"])


def test_static_rows_bring_the_row_of_their_size():
    rows = tables.only(tables.rows_of([1]), ["vgg16", "static-epochs"])
    assert [row.method for row in rows] == ["static-epochs", "random"]


@pytest.mark.parametrize("preset", ["quick", "fifth", "paper"])
def test_every_cell_is_a_command_that_the_recipe_takes(preset, tmp_path):
    args = tables.parse(["--preset", preset, "--tables", "1", "2", "3", "--out", str(tmp_path)])
    for row in args.rows:
        if not row.size_of:
            asked = cifar.parse(cells.options(row, 3, args, minutes=5))
            named = (asked.dataset, asked.model, asked.method, asked.seed, asked.minutes)
            assert named == (row.dataset, row.model, row.method, 3, 5)
            assert asked.penalty == (row.setting != "neither")
            if preset == "paper":
                assert (asked.epochs, asked.every, asked.schedule) == (250, 50, "cosine")
                if asked.penalty:
                    weights = cifar.penalty(asked)
                    similarity, change = weights.weight, weights.weight_sum
                    assert similarity == (0 if row.setting == "weight_sum" else 1)
                    assert change == (0 if row.setting == "similarity" else 0.01)


def test_settings_of_ones_own_are_rows_of_the_kind_that_they_are_for():
    chosen = ["--only", "vgg16", "net2wider", "static-epochs", "parted", "always", "noisy"]
    own = {
        "parted": "--measure energy --per neuron --penalty-weight 0.1",
        "noisy": "--no-penalty --noise 0.5",
    }
    settings = [text for name, options in own.items() for text in ("--setting", name, options)]
    settings += ["--static-setting", "always", "--static-penalty always --measure angle"]
    args = tables.parse([*chosen, *settings, "--tables", "1", "--validation-examples", "50"])
    grown, static = (
        {row.setting: row for row in args.rows if bool(row.size_of) is of_static}
        for of_static in (False, True)
    )
    assert list(static) == ["always"] and list(grown) == ["parted", "noisy", "neither"]
    parted, noisy = (
        cifar.parse(cells.options(grown[name], 0, args, 5)) for name in ("parted", "noisy")
    )
    found = cifar.penalty(parted)
    assert (found.measure, found.per, found.weight) == ("energy", "neuron", 0.1)
    assert parted.validation_examples == 50
    assert not noisy.penalty and cifar.method(noisy).noise == 0.5


def not_growing(options=""):
    return cifar.parse(["--static", "--width", "4", *options.split()])


@pytest.mark.parametrize("options", ["", "--static-penalty never", "--no-penalty"])
def test_nothing_follows_in_a_network_that_does_not_grow(options):
    assert cifar.following(not_growing(options)) == []


@pytest.mark.parametrize(("when", "epochs"), [("windows", [2, 4]), ("always", [0, 2, 4])])
def test_a_network_that_does_not_grow_can_be_penalised(when, epochs):
    asked = not_growing(f"--epochs 6 --every 2 --penalty-epochs 1 --static-penalty {when}")
    (penalised,) = cifar.following(asked)
    armed = []
    penalised.set_model(types.SimpleNamespace(arm=lambda penalty: armed.append(penalty.epochs)))
    for epoch in range(6):
        penalised.on_epoch_begin(epoch)
        if epoch in epochs:
            assert armed.pop() == 1
        assert not armed


def test_the_file_holds_what_main_returns(finished):
    out, _, result = finished
    assert json.loads((out / "tables.json").read_text()) == json.loads(json.dumps(result))
    accuracies = {
        (r["row"]["method"], r["row"]["setting"]): r["accuracies"] for r in result["rows"]
    }
    for (method, setting), values in accuracies.items():
        run = runs.read(out / f"cifar10-vgg16-{method}-{setting}-seed0")
        assert values == [100 * run.test_accuracy]
    assert len(accuracies) == 2  # --only names no setting's rows of static-flops but "neither"


def test_cells_are_what_their_rows_say(finished):
    out, _, _ = finished
    grown = runs.read(out / FOLDERS[0])
    static = runs.read(out / FOLDERS[1])
    assert len(grown.growth) == 1 and not grown.configuration["penalty"]
    assert static.widths == grown.widths and not static.growth
    per_epoch = static.history["training_flops"][0]
    assert abs(static.training_flops - grown.training_flops) <= per_epoch / 2
    assert grown.configuration["train_examples"] == 100


def test_the_markdown_has_every_row_beside_the_paper(finished):
    out, _, _ = finished
    text = (out / "tables.md").read_text()
    assert "### vgg16 on cifar10" in text
    assert "| random | - | 1 |" in text and "| 86.49 |" in text
    assert "| static-flops | - | 1 |" in text


def test_finished_cells_are_kept(finished):
    out, options, result = finished
    before = {path: path.stat().st_mtime_ns for path in out.rglob("results.json")}
    assert tables.main(options) == result
    assert {path: path.stat().st_mtime_ns for path in out.rglob("results.json")} == before


def test_another_protocol_is_refused(finished):
    out, options, _ = finished
    before = (out / "tables.json").read_bytes()
    with pytest.raises(ValueError, match="epochs was 2, now 3"):
        tables.main([*options, "--epochs", "3"])
    with pytest.raises(ValueError, match=r"data was .*, now other\.npz"):  # other images
        tables.main([*options, "--data", "other.npz"])
    assert (out / "tables.json").read_bytes() == before


def test_a_damaged_cell_is_named_and_left(finished):
    out, options, _ = finished
    path = out / "cifar10-vgg16-random-neither-seed0" / "results.json"
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[:100])
        with pytest.raises(ValueError, match=r"results\.json is damaged"):
            tables.main(options)
        assert path.read_bytes() == whole[:100]
    finally:
        path.write_bytes(whole)


def test_a_failing_cell_is_told(data, tmp_path):
    options = [*ROWS, "--data", str(data), "--out", str(tmp_path / "out")]
    with pytest.raises(
        cells.CellError, match=r"random-neither-seed0 failed \(exit status 1\): [\s\S]*log\.txt"
    ):
        tables.main([*options, "--train-examples", "99999"])


def test_a_cell_that_begins_while_another_fails_is_ended(tmp_path, monkeypatch):
    """The one that failed frees its place for the next before anybody hears of it."""
    args = tables.parse(["--out", str(tmp_path), "--seeds", "0", "1", "2"])
    started = []

    class Process:
        def __init__(self, command, **kwargs):
            started.append(self)
            self.ended = threading.Event()

        def wait(self):
            if len(started) > 1:
                assert self.ended.wait(60)
            return 9

        terminate = property(lambda self: self.ended.set)

    monkeypatch.setattr(cells.subprocess, "Popen", Process)
    three = [(args.rows[0], seed) for seed in args.seeds]
    with pytest.raises(cells.CellError, match=r"failed \(exit status 9\)"):
        cells.Cells(args).run(three)
    assert len(started) <= 2


def made(accuracies, seconds, flops=2e12):
    return [
        runs.Run("cifar", {}, {}, {}, "", {"similarity": [0.2]}, [{"unhelpful": 3}],
                   {"training": seconds, "choosing": 2.0}, flops, {}, 688, 300000, 1.0, a / 100)
        for a in accuracies
    ]  # fmt: skip


def test_gains_are_paired_by_seed(tmp_path):
    rows = [cells.Row("cifar10", "vgg16", "firefly", s) for s in ("neither", "both")]
    values = {"neither": made([50, 52, 54], 100), "both": made([51, 52, 56], 103)}
    for row in rows:
        for seed, run in enumerate(values[row.setting]):
            runs.write(tmp_path / row.folder(seed) / "results.json", run)
    plain, both = tables.collect(rows, [0, 1, 2], tmp_path)
    assert plain["gain"] is None and plain["penalty"] is None
    assert both["gain"] == pytest.approx([1, 0, 2]) and both["penalty"] == pytest.approx(3)
    assert both["unhelpful"] == 3 and both["similarity"] == 0.2
    text = tables.tables([plain, both])
    assert "| firefly | - | 3 | 52.00 ± 2.00 | - | 90.60 | 100 |" in text
    assert "+1.00 ± 0.58 (+1.00 +0.00 +2.00)" in text


def test_a_run_that_broke_down_has_no_similarity(tmp_path):
    row = cells.Row("cifar10", "vgg16", "random", "neither")
    for seed, run in enumerate(made([50, 10], 100)):
        run.history["similarity"] = [0.2, None if seed else 0.3]
        runs.write(tmp_path / row.folder(seed) / "results.json", run)
    (summary,) = tables.collect([row], [0, 1], tmp_path)
    assert summary["similarity"] is None
    assert (summary["mean"], summary["deviation"]) == (30, pytest.approx(800**0.5))
