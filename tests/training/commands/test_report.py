import base64
import json
import re
import xml.etree.ElementTree
from pathlib import Path

import numpy as np
import pytest
from etils import epath

import train
from training.commands.report import ReportConfig, distinct_names, find_runs, read_runs
from training.errors import UserError
from training.reports.curves import draw_report, drawn_quantities, run_styles
from training.reports.plots import COLOURS
from training.reports.table import ReportedRun, table_rows


def make_run(folder, *, losses=(4.0, 3.0, 2.5, 2.0), finished=True, sets=None, **config):
    """A run's folder, as training would leave it."""
    folder.mkdir(parents=True)
    defaults = {
        "optimizer": "trion",
        "learning_rate": 0.02,
        "rank": 0.25,
        "seed": 0,
        "steps": len(losses),
        "batch_size": 16,
        "seq_len": 256,
        "tokenizer": "bytes",
        "data": ["stdlib"],
    }
    (folder / "config.json").write_text(json.dumps(defaults | config))
    records = [
        {"step": step, "loss": loss, "seconds": 0.25 * step} for step, loss in enumerate(losses, 1)
    ]
    records[-1] |= {"val_loss": losses[-1] + 0.125, "val_bits_per_byte": 3.0625} | (sets or {})
    lines = [json.dumps(record) + "\n" for record in records]
    (folder / "metrics.jsonl").write_text("".join(lines))
    if finished:
        summary = {
            "train_loss": losses[-1],
            "tokens_per_second": 16384.0,
            "optimizer_state_bytes": 3_500_000,
        }
        (folder / "summary.json").write_text(json.dumps(summary))
    checkpoint = folder / "checkpoints" / "4"
    checkpoint.mkdir(parents=True)
    for name in ("config.json", "metrics.jsonl"):  # never taken for another run
        (checkpoint / name).write_text("{}")
    return folder


def report(*arguments):
    return train.main(["report", *map(str, arguments)])


def test_a_report_is_one_page_with_curves_and_a_table(tmp_path, capsys):
    runs = [
        make_run(tmp_path / "runs" / "trion"),
        make_run(tmp_path / "runs" / "adamw & co", optimizer="adamw", rank=None, seed=1),
    ]
    page = tmp_path / "report.html"
    assert report(*runs, "--out", page) == 0
    text = page.read_text()
    cells = re.findall(r"<td[^>]*>(.*?)</td>", text)
    rows = [cells[:13], cells[13:]]
    assert rows[0][:7] == ["trion", "trion", "0.02", "0.25", "0", "4", "16,384"]
    assert rows[0][7:] == ["2.0000", "2.1250", "3.0625", "3.50 MB", "1.0", "16,384"]
    assert rows[1][:5] == ["adamw &amp; co", "adamw", "0.02", "", "1"]
    (image,) = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', text)
    root = xml.etree.ElementTree.fromstring(base64.b64decode(image))
    assert root.tag.endswith("svg")
    assert not re.search(r'(src|href)="http', text)  # nothing is fetched
    assert "without compiling, evaluating" in text
    printed = capsys.readouterr().out
    assert "2 run(s) in" in printed
    assert "2.1250" in printed


def test_a_report_may_be_a_picture(tmp_path):
    run = make_run(tmp_path / "run")
    assert report(run, "--out", tmp_path / "report.PNG") == 0
    assert (tmp_path / "report.PNG").read_bytes().startswith(b"\x89PNG")


def test_runs_are_found_below_a_folder_and_counted_once(tmp_path):
    first = make_run(tmp_path / "compare" / "runs" / "a")
    second = make_run(tmp_path / "compare" / "runs" / "b")
    assert find_runs(tmp_path) == [first, second]
    assert find_runs(first) == [first]
    page = tmp_path / "report.html"
    assert report(tmp_path / "compare", first, "--out", page) == 0
    assert page.read_text().count("<tr>") == 3  # the header and two runs


def test_names_tell_the_runs_apart():
    paths = [Path("/x/a/run"), Path("/x/b/run"), Path("/x/b/other")]
    assert distinct_names(paths) == ["a/run", "b/run", "b/other"]
    assert distinct_names(paths[1:]) == ["run", "other"]


def test_what_differs_between_runs_is_said(tmp_path):
    runs = [
        make_run(tmp_path / "bytes"),
        make_run(
            tmp_path / "bpe", tokenizer="bpe:1024", data=["a", "b"], finished=False, steps=100
        ),
    ]
    page = tmp_path / "report.html"
    assert report(*runs, "--out", page) == 0
    text = page.read_text()
    assert "The runs differ in tokenizer (bpe:1024, bytes): their losses per token are" in text
    assert "differ in data (a b, stdlib): their losses are of different texts" in text
    assert "Not finished: bpe." in text
    assert "4 of 100" in text


def test_columns_are_those_that_some_run_has_a_value_for(tmp_path):
    runs = [
        make_run(tmp_path / "a", rank=None, sets={"val_loss/code": 1.5}),
        make_run(tmp_path / "b", rank=None),
    ]
    (row, other) = table_rows(read_runs(runs))
    assert "rank" not in row
    assert "seed" in row
    assert [each["validation loss, code"] for each in (row, other)] == ["1.5000", ""]


BAD = {
    "missing": (lambda folder: folder / "no", r"no: there is no such folder; give the folder of"),
    "empty": (lambda folder: folder, r"neither a run \(it has no config\.json\) nor a folder"),
    "no metrics": (
        lambda folder: (make_run(folder / "r") / "metrics.jsonl").unlink() or folder / "r",
        r"neither a run \(it has no metrics\.jsonl\)",
    ),
    "no steps": (
        lambda folder: (make_run(folder / "r") / "metrics.jsonl").write_text("") or folder,
        r"r: its metrics\.jsonl is empty: no step has been recorded yet",
    ),
    "broken metrics": (
        lambda folder: (make_run(folder / "r") / "metrics.jsonl").write_text("[1]\n") and folder,
        r"metrics\.jsonl: line 1 is not a record of metrics",
    ),
    "broken config": (
        lambda folder: (make_run(folder / "r") / "config.json").write_text("{") and folder,
        r"config\.json is damaged \(Expecting.*restore it from a backup",
    ),
    "a list as config": (
        lambda folder: (make_run(folder / "r") / "config.json").write_text("[]") and folder,
        r"config\.json: expected a JSON object, found list",
    ),
    "not a run's config": (
        lambda folder: (make_run(folder / "r") / "config.json").write_text("{}") and folder,
        r"config\.json: it has no 'optimizer', so it is no run's",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_run_is_named_and_nothing_is_written(tmp_path, capsys, case):
    make, message = BAD[case]
    folder = tmp_path / "given"
    folder.mkdir()
    page = tmp_path / "report.html"
    assert report(make(folder), "--out", page) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert re.search(message, error), error
    assert not page.exists()


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("report.pdf", r"--out .*report\.pdf: its ending must be one of \.html, \.png"),
        ("no/report.html", r"is in a folder that does not exist: give the path of a file"),
        ("folder.html", r"is a folder: give the path of a file"),
    ],
)
def test_a_wrong_output_is_refused_before_the_runs_are_read(tmp_path, out, message):
    (tmp_path / "folder.html").mkdir()
    config = ReportConfig((tmp_path / "missing",), tmp_path / out)
    with pytest.raises(UserError, match=message):
        train.report(config, None)


def curves(name, optimizer, losses):
    records = [{"step": i, "loss": loss, "seconds": 60.0 * i} for i, loss in enumerate(losses, 1)]
    return of_records(name, optimizer, records)


def of_records(name, optimizer, records):
    config = {"optimizer": optimizer, "batch_size": 16, "seq_len": 256}
    return ReportedRun(name, config, records, summary={})


def test_few_runs_have_a_colour_each_and_many_share_that_of_their_optimizer():
    few = run_styles([curves(f"run {i}", "trion", [1.0]) for i in range(len(COLOURS))])
    assert len({style.colour for style in few}) == len(COLOURS)
    assert [style.label for style in few][:2] == ["run 0", "run 1"]
    names = ["trion", "adamw", "muon"]
    many = run_styles([curves(str(i), names[i % 3], [1.0]) for i in range(10)])
    labels = list(dict.fromkeys(style.label for style in many))
    assert labels == ["trion (4 runs)", "adamw (3 runs)", "muon (3 runs)"]
    assert len({style.colour for style in many}) == 3
    other = [curves(str(i), f"optimizer {i}", [1.0]) for i in range(2 * len(COLOURS))]
    assert len({(style.colour, style.dashes) for style in run_styles(other)}) == len(other)


def test_what_every_run_came_to_is_inside_the_axes():
    """The limits leave out the first steps, and never the end of a bad run."""
    good = curves("good", "trion", np.geomspace(8, 1, 200))
    bad = curves("bad", "sgd", np.linspace(8, 7.5, 200))
    figure = draw_report([good, bad])
    tokens, time = figure.axes
    low, high = tokens.get_ylim()
    assert low < 1
    assert high > 7.5
    alone = draw_report([good]).axes[0].get_ylim()
    assert alone[1] < 8
    assert tokens.get_xlabel() == "thousands of tokens"
    assert time.get_xlabel() == "training time (h)"
    assert time.get_xlim()[1] > 200 / 60


def test_a_long_curve_is_thinned_and_keeps_its_end():
    run = curves("long", "trion", np.linspace(5, 1, 10_000))
    (line, *_) = draw_report([run]).axes[0].lines
    assert len(line.get_xdata()) <= 600
    assert line.get_xdata()[-1] == pytest.approx(10_000 * 4096 / 1e6)


def test_bits_per_byte_are_drawn_where_they_say_more_than_the_losses():
    def run(name, ratio):
        losses = {"val_loss": 2.0, "val_bits_per_byte": 2.0 * ratio} if ratio else {"val_loss": 2.0}
        return of_records(name, "adamw", [{"step": 1, "loss": 2.5, "seconds": 1.0, **losses}])

    one_tokenizer, another, answers = run("a", 1.25), run("b", 0.5), run("c", None)
    assert drawn_quantities([one_tokenizer, run("d", 1.25)]) == ["loss", "val_loss"]
    every = ["loss", "val_loss", "val_bits_per_byte"]
    assert drawn_quantities([one_tokenizer, another]) == every
    assert drawn_quantities([one_tokenizer, answers]) == every
    assert drawn_quantities([answers]) == ["loss", "val_loss"]


def test_runs_and_report_may_be_in_a_bucket(tmp_path, bucket):
    for path in make_run(tmp_path / "run").iterdir():
        if path.is_file():
            epath.Path(path).copy(bucket / "runs/first" / path.name)
    (bucket / "runs/first/checkpoints/4/metrics.jsonl").write_text("{}")
    (bucket / "runs/first/checkpoints/4/config.json").write_text("{}")
    assert report("gs://bucket/runs", "--out", "gs://bucket/report.html") == 0
    assert (bucket / "report.html").read_text().count("<tr>") == 2
