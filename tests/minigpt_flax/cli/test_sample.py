"""``sample``: several prompts, stops, files, a stream that is the text, and mistakes in one line."""

import io
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest

from minigpt_flax.__main__ import main
from tests.minigpt_flax.training import ROOT


def sampled(capfd, run, *arguments):
    """What one call printed."""
    assert main(["sample", str(run), *arguments]) == 0
    said = capfd.readouterr()
    assert re.search(r"^[\d,]+ tokens in [\d.]+ s, the first after [\d.]+ s", said.err), said.err
    return said.out


@pytest.mark.slow
def test_prompts_of_different_lengths_become_what_they_become_alone(trained, capfd):
    how = ["--max-tokens", "40", "--temperature", "0"]
    alone = [sampled(capfd, trained, "--prompt", text, *how) for text in ("The", "You must give any")]
    together = sampled(capfd, trained, "--prompt", "The", "--prompt", "You must give any", *how)
    assert together == f"--- 1 of 2 ---\n{alone[0]}--- 2 of 2 ---\n{alone[1]}"
    assert [len(text) for text in alone] == [3 + 40 + 1, 17 + 40 + 1]


def test_more_texts_leave_the_first_as_it_was(trained, capfd):
    one, two = (sampled(capfd, trained, "--prompt", "The", "--max-tokens", "20", "--num", n) for n in "12")
    assert two.startswith(f"--- 1 of 2 ---\n{one}--- 2 of 2 ---\nThe")
    assert one not in two.split("--- 2 of 2 ---\n")[1]


def test_a_stop_cuts_the_text(trained, capfd):
    whole = sampled(capfd, trained, "--prompt", "The", "--max-tokens", "60")
    stop = whole[30:32]
    cut = sampled(capfd, trained, "--prompt", "The", "--max-tokens", "60", "--stop", stop, "--stop", "\x00")
    assert cut == "The" + whole[3:].split(stop)[0] + "\n"


def test_a_prompt_from_a_file_or_from_the_input(trained, tmp_path, capfd, monkeypatch):
    (tmp_path / "prompt.txt").write_text("The work\n")
    how = ["--max-tokens", "9"]
    expected = sampled(capfd, trained, "--prompt", "The work", *how)
    assert sampled(capfd, trained, "--prompt-file", str(tmp_path / "prompt.txt"), *how) == expected
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"The work\n")))
    assert sampled(capfd, trained, "--prompt-file", "-", *how) == expected


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--num", "0"], "--num must be at least 1, got 0"),
        (["--max-tokens", "0"], "--max-tokens must be at least 1, got 0"),
        (["--stop", ""], "--stop is empty"),
        (["--prompt", ""], "the prompt is empty"),
        (["--prompt", "\U0001f600"], "the char tokenizer lacks"),
        (["--top-p", "2"], "--top-p must be at most 1, got 2"),
        (["--min-p", "2"], "--min-p must be at most 1, got 2"),
        (["--repetition-penalty", "0"], "--repetition-penalty must be above 0, got 0"),
        (["--prompt", "The", "--special-tokens"], "the char tokenizer has no special tokens: omit --special-tokens"),
        (["--prompt-file", "no/such/file"], "can't read "),
        (["--prompt-file", "{tmp}/latin"], "isn't UTF-8"),
        (["--max-token", "3"], "unknown argument '--max-token'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_end_in_one_line(trained, tmp_path, capfd, arguments, says):
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    assert main(["sample", str(trained), *(part.format(tmp=tmp_path) for part in arguments)]) == 2
    said = capfd.readouterr()
    assert says in said.err and said.err.count("\n") == 1 and said.out == ""


def test_help_needs_no_jax():
    code = "import sys, minigpt_flax.__main__; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_flags_reach_the_sampler(trained, capfd, monkeypatch):
    how = {}
    monkeypatch.setattr("minigpt_flax.train.sample.write", lambda *_, **given: how.update(given) or [])
    arguments = ["--min-p", "0.1", "--repetition-penalty", "1.2", "--ignore-eos", "--special-tokens", "--top-p", "0.9"]
    assert main(["sample", str(trained), "--json", *arguments]) == 0
    names = {"min_p": 0.1, "repetition_penalty": 1.2, "ignore_eos": True, "special_tokens": True, "top_p": 0.9}
    assert {name: how[name] for name in names} == names
