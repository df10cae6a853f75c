"""A run that was killed after its last checkpoint and before its sample and curves."""

from tests.minigpt_flax.training import flags
from train import main


def test_a_finished_run_writes_what_is_missing_and_changes_nothing_else(tmp_path, capfd):
    path = tmp_path / "a"
    assert main(flags(out=tmp_path, name="a", sample_tokens=16)) == 0
    kept = {file.name: file.read_bytes() for file in path.iterdir() if file.is_file()}
    for name in ("samples.txt", "curves.png"):
        (path / name).unlink()
    assert main(["--resume", str(path)]) == 0
    assert "wrote what was missing: samples.txt, curves.png" in capfd.readouterr().out
    assert {file.name: file.read_bytes() for file in path.iterdir() if file.is_file()} == kept
    assert main(["--resume", str(path)]) == 0
    assert "missing" not in capfd.readouterr().out
