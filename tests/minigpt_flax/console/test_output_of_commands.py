"""``--json`` and ``--quiet`` of the commands: records alone, results alone."""

import json

import pytest

from minigpt_flax.__main__ import main
from tests.minigpt_flax.training import TINY

LINES = {
    "sample": (["--max-tokens=5", "--num=2"], {"prompt", "text", "tokens"}),
    "report": (["--out={tmp}/page.html"], {"page", "runs", "bytes"}),
    "diagnose": (["--only=noise", "--batches=2", "--out={tmp}/studies"], {"study", "run", "step"}),
    "prepare": (["--out={tmp}/tokens"], {"folder", "training", "validation", "vocab_size", "tokenizer", "sha256"}),
}
ASKED_FOR = ("sample", "diagnose")  # what they print is the result; the others' is a file


@pytest.mark.parametrize("form", ["--json", "--quiet"])
@pytest.mark.parametrize("command", LINES)
def test_records_alone_or_results_alone(trained, tmp_path, capfd, command, form):
    more, names = LINES[command]
    subject = TINY["data"] if command == "prepare" else trained
    assert main([command, str(subject), *(text.format(tmp=tmp_path) for text in more), form]) == 0
    said = capfd.readouterr()
    assert said.err == ""
    if form == "--quiet":
        assert bool(said.out) is (command in ASKED_FOR)
    else:
        assert all(names <= json.loads(line).keys() for line in said.out.splitlines())
        assert said.out.count("\n") == (2 if command == "sample" else 1)
