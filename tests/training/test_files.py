"""Folders on this machine and in a bucket."""

import pytest
from etils import epath

import train
from training.checkpoints.integrity import check_sizes, record_sizes
from training.checkpoints.reader import CheckpointReader
from training.files import move_folder, walk


@pytest.fixture(params=["disk", "bucket"])
def root(request, tmp_path, bucket):
    """A folder to write to."""
    return bucket if request.param == "bucket" else epath.Path(tmp_path)


def write(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def test_a_walk_finds_every_file_but_in_what_is_left_out(root):
    write(root, "run/b", "run/a", "run/inner/c", "run/skipped/d")
    folder = root / "run"
    found = dict(walk(folder, leave_out=["skipped"]))
    assert found == {folder: [folder / "a", folder / "b"], folder / "inner": [folder / "inner/c"]}


def test_a_walk_does_not_follow_a_link_back(tmp_path):
    write(tmp_path, "run/a")
    (tmp_path / "run/back").symlink_to(tmp_path)
    folder = epath.Path(tmp_path) / "run"
    assert dict(walk(folder)) == {folder: [folder / "a"]}


def test_a_folder_moves_with_everything_in_it(root):
    write(root, "run/5/a", "run/5/inner/b")
    (root / "aside").mkdir()
    move_folder(root / "run/5", root / "aside/5")
    assert not (root / "run/5").exists()
    assert (root / "aside/5/a").read_text() == "run/5/a"
    assert (root / "aside/5/inner/b").read_text() == "run/5/inner/b"


def test_a_checkpoint_cut_short_is_named(root):
    write(root, "5/state/array", "5/metadata")
    record_sizes(root / "5")
    check_sizes(root / "5")
    (root / "5/state/array").write_text("")
    with pytest.raises(ValueError, match="state/array has 0 bytes instead of 13"):
        check_sizes(root / "5")


def test_checkpoints_of_a_run_in_a_bucket_are_looked_for_there(bucket):
    assert str(CheckpointReader(bucket / "run/checkpoints").folder) == "gs://bucket/run/checkpoints"


def test_a_bucket_that_nothing_installed_reads_is_refused(capsys):
    assert train.main(["report", "nowhere://bucket/run"]) == 2
    assert "error: nowhere://bucket/run: Protocol not known: nowhere" in capsys.readouterr().err
