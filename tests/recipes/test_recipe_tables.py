import json
import threading

import pytest
from small_cifar import recipe, write_tfds

tables, table_cells, table_text = recipe("tables"), recipe("table_cells"), recipe("table_text")
common, published = recipe("common"), recipe("published")

SMALL = ["--width", "4", "--epochs", "2", "--every", "1", "--train-examples", "150"]
ROWS = ["--only", "vgg16", "random", "static-flops", "neither", "--tables", "1", "--seeds", "0"]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        yield write_tfds(tmp_path_factory.mktemp("cifar10"), "cifar10", 150, 50, patch)


@pytest.fixture(scope="module")
def finished(data_dir, tmp_path_factory):
    """Folder and results of a run of two cells, two of them at a time."""
    out = tmp_path_factory.mktemp("tables") / "out"
    options = [*SMALL, *ROWS, "--jobs", "2", "--data-dir", str(data_dir), "--out", str(out)]
    return out, options, tables.main(options)


def test_rows_of_the_tables():
    rows = table_cells.rows_of([1, 3])
    assert len(rows) == 2 * (5 * 2 + 2) + 3 * 2  # Table 3 adds each term alone, of three methods
    assert len(set(rows)) == len(rows)
    assert {row.dataset for row in table_cells.rows_of([2])} == {"cifar100"}
    for row in table_cells.rows_of([1, 2, 3]):
        paper = published.published(row.dataset, row.model, row.method, row.setting)
        assert (paper is None) == (row.method not in table_cells.PAPER_METHODS)


def test_published_numbers():
    assert published.published("cifar10", "vgg16", "firefly", "both") == (91.70, 3409)
    assert published.published("cifar100", "mobilenet", "splitting", "neither") == (65.71, 7167)
    assert published.published("cifar10", "vgg16", "firefly", "weight_sum") == (91.60, 3379)
    assert published.published("cifar100", "vgg16", "firefly", "weight_sum") is None


def test_only_keeps_what_matches_each_kind():
    rows = table_cells.rows_of([1])
    kept = table_cells.only(rows, ["vgg16", "firefly", "gradmax", "both"])
    assert [(r.model, r.method, r.setting) for r in kept] == [
        ("vgg16", "firefly", "both"),
        ("vgg16", "gradmax", "both"),
    ]
    assert table_cells.only(rows, []) == rows
    with pytest.raises(ValueError, match="Received: resnet"):
        table_cells.only(rows, ["vgg16", "resnet"])
    with pytest.raises(ValueError, match="leaves no row"):
        table_cells.only(rows, ["static-flops", "both"])


def test_static_rows_bring_the_row_of_their_size():
    rows = table_cells.only(table_cells.rows_of([1]), ["vgg16", "static-epochs"])
    assert [row.method for row in table_cells.with_sizes(rows)] == ["static-epochs", "random"]


def test_the_file_holds_what_main_returns(finished):
    out, _, result = finished
    assert json.loads((out / "tables.json").read_text()) == json.loads(json.dumps(result))
    accuracies = {
        (r["row"]["method"], r["row"]["setting"]): r["accuracies"] for r in result["rows"]
    }
    for (method, setting), values in accuracies.items():
        run = common.read_run(out / f"cifar10-vgg16-{method}-{setting}-seed0" / "results.json")
        assert values == [100 * run.test_accuracy]
    assert len(accuracies) == 2  # --only names no setting's rows of static-flops but "neither"


def test_cells_are_what_their_rows_say(finished):
    out, _, _ = finished
    grown = common.read_run(out / "cifar10-vgg16-random-neither-seed0" / "results.json")
    static = common.read_run(out / "cifar10-vgg16-static-flops-neither-seed0" / "results.json")
    assert len(grown.growth) == 1 and not grown.configuration["penalty"]
    assert static.widths == grown.widths and not static.growth
    per_epoch = static.history["training_flops"][0]
    assert abs(static.training_flops - grown.training_flops) <= per_epoch / 2
    assert grown.configuration["train_examples"] == 150


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


def test_a_failing_cell_is_told(data_dir, tmp_path):
    options = [*SMALL, *ROWS, "--data-dir", str(data_dir), "--out", str(tmp_path / "out")]
    with pytest.raises(
        tables.CellError, match=r"random-neither-seed0 failed \(exit status 1\): [\s\S]*log\.txt"
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

    monkeypatch.setattr(tables.subprocess, "Popen", Process)
    cells = [(args.rows[0], seed) for seed in args.seeds]
    with pytest.raises(tables.CellError, match=r"failed \(exit status 9\)"):
        tables.Cells(args).run(cells)
    assert len(started) <= 2


def runs(accuracies, seconds, flops=2e12):
    return [
        common.Run("cifar", {}, {}, {}, "", {"similarity": [0.2]}, [{"unhelpful": 3}],
                   {"training": seconds, "choosing": 2.0}, flops, {}, 688, 300000, 1.0, a / 100)
        for a in accuracies
    ]  # fmt: skip


def test_gains_are_paired_by_seed(tmp_path):
    rows = [table_cells.Row("cifar10", "vgg16", "firefly", s) for s in ("neither", "both")]
    values = {"neither": runs([50, 52, 54], 100), "both": runs([51, 52, 56], 103)}
    for row in rows:
        for seed, run in enumerate(values[row.setting]):
            common.write_run(tmp_path / row.folder(seed) / "results.json", run)
    plain, both = table_text.collect(rows, [0, 1, 2], tmp_path)
    assert plain.gain is None and plain.penalty is None
    assert both.gain == pytest.approx([1, 0, 2]) and both.penalty == pytest.approx(3)
    assert both.unhelpful == 3 and both.similarity == 0.2
    text = table_text.tables([plain, both])
    assert "| firefly | - | 3 | 52.00 ± 2.00 | 90.60 | 100 |" in text
    assert "+1.00 ± 0.58 (+1.00 +0.00 +2.00)" in text


def test_a_run_that_broke_down_has_no_similarity(tmp_path):
    row = table_cells.Row("cifar10", "vgg16", "random", "neither")
    for seed, run in enumerate(runs([50, 10], 100)):
        run.history["similarity"] = [0.2, None if seed else 0.3]
        common.write_run(tmp_path / row.folder(seed) / "results.json", run)
    (summary,) = table_text.collect([row], [0, 1], tmp_path)
    assert summary.similarity is None
    described = summary.to_dict()
    assert (described["mean"], described["deviation"]) == (30, pytest.approx(800**0.5))
