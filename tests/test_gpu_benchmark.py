"""The accelerator benchmarks run, at tiny sizes that test only that they run."""

import json

import pytest

from benchmarks import accelerator, gpu


def sections(folder):
    (file,) = folder.glob("*-tiny.json")
    return json.loads(file.read_text())


def test_scatter_and_its_verdict(tmp_path, capsys):
    assert gpu.main(["--tiny", "--only", "scatter", "attention", "--out", str(tmp_path)]) == 0
    found = sections(tmp_path)
    places = found["gpu scatter"]["rows"]["7 places"]
    assert places["regression"] == (places["times_distinct"] > accelerator.SLOW)
    assert ("no regression" in capsys.readouterr().out) != places["regression"]
    assert found["gpu attention"]["rows"]["plain 2 x 16 x 2 x 8"]["deviation"] == 0


def test_a_section_that_fails_or_takes_too_long_leaves_the_others_alone(monkeypatch, capsys):
    def broken(size):
        yield "first", {"ms": 1.0}
        raise MemoryError("too large")

    def endless(size):
        while True:
            yield "again", {"ms": 1.0}

    monkeypatch.setitem(gpu.SECTIONS, "scatter", broken)
    monkeypatch.setitem(gpu.SECTIONS, "sweep", endless)
    kept = []
    failed = gpu.measure("scatter", accelerator.TINY, 60, lambda found: kept.append(dict(found)))
    assert failed["rows"] == {"first": {"ms": 1.0}} and failed["error"] == "MemoryError: too large"
    assert kept == [{"rows": failed["rows"], "complete": False}, failed]
    assert not gpu.measure("sweep", accelerator.TINY, 0, kept.append)["complete"]
    assert "out of time" in capsys.readouterr().out


def test_a_row_fits_into_80_columns():
    values = dict.fromkeys(("ms", "tokens_per_second", "mfu", "memory_bytes", "compile_seconds"), 0.5)
    assert max(map(len, gpu.text("speedrun, base", values, "490k tokens/s").splitlines())) <= 80


@pytest.mark.slow
def test_every_section(tmp_path):
    assert gpu.main(["--tiny", "--out", str(tmp_path), "--budget", "600"]) == 0
    for section, found in sections(tmp_path).items():
        assert found["complete"], section
        errors = [values["error"] for values in found["rows"].values() if "error" in values]
        assert not errors, (section, errors)
