"""``eval``: the run's own validation loss again, other texts, the files, and errors in one line."""

import json

import numpy as np
import pytest

from minigpt_flax.__main__ import main
from minigpt_flax.data import split
from tests.minigpt_flax.training import TINY, records, start


def evaluated(capfd, *arguments):
    """The record of one call, and what the same call tells a person."""
    said = []
    for form in ("--json", "--quiet"):
        assert main(["eval", *map(str, arguments), form]) == 0
        said.append(capfd.readouterr().out)
    return json.loads(said[0]), said[1]


def test_the_runs_own_validation_again(trained, capfd):
    report, said = evaluated(capfd, trained, "--step", "24")
    recorded = [line for line in records(trained) if "val_loss" in line][-1]
    names = {"loss": "val_loss", "loss_sem": "val_sem", "perplexity": "val_perplexity"}
    names["bits_per_character"] = "val_bits_per_char"
    for name, logged in names.items():
        assert report[name] == pytest.approx(recorded[logged], rel=1e-5), name
    validation = split(np.frombuffer(TINY["data"].read_bytes(), np.uint8))[1]
    assert report["tokens"] == report["characters"] == report["bytes"] == len(validation)
    assert (report["step"], report["split"], report["data"]) == (24, "validation", TINY["data"].name)
    assert len(report["loss_by_position"]) == TINY["context"]
    assert f"{report['loss']:.4f} +- {report['loss_sem']:.4f} nats/token" in said
    assert f"{report['bits_per_byte']:.3f} bits/byte" in said and "5 to 8" in said
    assert max(map(len, said.splitlines()[2:])) <= 80  # above is a path


def test_several_sources_are_mixed_as_in_training(tmp_path, capfd):
    other = tmp_path / "other.txt"
    other.write_text("To the extent possible. " * 40, encoding="utf-8")
    assert start(tmp_path / "run", f"--data={other}", "--mix=0.75,0.25", steps=8) == 0
    recorded = [line for line in records(tmp_path / "run") if "val_loss" in line][-1]
    capfd.readouterr()
    report, said = evaluated(capfd, tmp_path / "run")
    assert report["loss"] == pytest.approx(recorded["val_loss"], rel=1e-5)
    assert report["loss_sem"] == pytest.approx(recorded["val_sem"], rel=1e-5)
    found = report["sources"]
    assert [one["share"] for one in found.values()] == [0.75, 0.25]
    for name, one in found.items():
        assert one["loss"] == pytest.approx(recorded[f"val_loss/{name}"], rel=1e-5)
        assert f"{one['loss']:.4f} on {one['share']:.1%} of the batches, {name}" in said
    alone, _ = evaluated(capfd, tmp_path / "run", "--data", other, "--split", "validation")
    assert alone["loss"] == pytest.approx(found[other.name]["loss"], rel=1e-6) and "sources" not in alone


def test_splits_add_up_to_the_whole(trained, capfd):
    parts = [evaluated(capfd, trained, "--split", name)[0] for name in ("training", "validation", "all")]
    assert parts[0]["tokens"] + parts[1]["tokens"] == parts[2]["tokens"]
    mean = np.average([p["loss"] for p in parts[:2]], weights=[p["tokens"] for p in parts[:2]])
    assert parts[2]["loss"] == pytest.approx(mean, abs=0.01)  # where windows begin differs


def test_another_text_is_read_whole_and_bytes_are_not_characters(trained, tmp_path, capfd):
    run = tmp_path / "text.txt"
    run.write_text("To the extent possible. " * 40, encoding="utf-8")
    report, _ = evaluated(capfd, trained, "--data", run)
    assert (report["split"], report["tokens"]) == ("all", 24 * 40)


def test_a_picture(trained, tmp_path):
    assert main(["eval", str(trained), "--picture", str(tmp_path / "loss.png")]) == 0
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--split", "valdation"], "no split is called 'valdation' (did you mean 'validation'?)"),
        (["--step", "7"], "no checkpoint of step '7'; there are: last, best, "),
        (["--data", "no-such-file"], "no corpus and no file or folder 'no-such-file'"),
        (["--data", "{tmp}/emoji.txt"], "the char tokenizer lacks '\U0001f600'"),
        (["--data", "{tmp}/tokens.bin"], "contains the token 65535, but the tokenizer has only "),
        (["--picture", "{tmp}/no/where.png"], "doesn't exist"),
        (["--picture", "{tmp}/loss.docx"], "must end in one of: "),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_mistakes_end_in_one_line(trained, tmp_path, capfd, arguments, says):
    (tmp_path / "emoji.txt").write_text("\U0001f600 and more", encoding="utf-8")
    np.array([1, 65535, 2], np.uint16).tofile(tmp_path / "tokens.bin")
    assert main(["eval", str(trained), *(part.format(tmp=tmp_path) for part in arguments)]) == 2
    said = capfd.readouterr().err
    assert says in said and said.count("\n") == 1
