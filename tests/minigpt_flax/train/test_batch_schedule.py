"""A run whose batches change their shape: resumed bit for bit, on one device and on several."""

import pytest

from tests.minigpt_flax.training import last_state, records, resume, start

CHANGING = {"steps": 8, "eval_every": 4, "batch_size": "[(0, 4), (4, 8)]", "seq_len": "[(0, 4), (4, 8)]"}
CASES = {
    "one device": (),
    "two devices": ("--mesh=data=2",),
    "sharded state": ("--mesh=data=2,zero=2",),
    "pmap": ("--mesh=data=2", "--parallel=pmap"),
    "accumulation": ("--accum=[(0, 2), (4, 1)]",),
    "documents": ("--tokenizer=bpe(vocab_size=300, eot=True)", "--document-mask"),
}


@pytest.mark.parametrize(
    "more", [pytest.param(m, id=n, marks=[pytest.mark.slow] * (n != "one device")) for n, m in CASES.items()]
)
def test_a_run_resumes_before_and_at_a_change(more, tmp_path, capfd):
    assert start(tmp_path / "whole", *more, **CHANGING) == 0
    out = capfd.readouterr().out
    assert out.count("from step 5: 64 tokens = 8 x 8 per step\n") == 1  # the plan
    assert out.count("from step 5: 64 tokens = 8 x 8 per step; compiling the step ...") == 1
    assert start(tmp_path / "parts", *more, "--stop-after=2", **CHANGING) == 0
    assert resume(tmp_path / "parts", "--stop-after=4") == resume(tmp_path / "parts") == 0
    assert records(tmp_path / "whole") == records(tmp_path / "parts")
    assert last_state(tmp_path / "whole") == last_state(tmp_path / "parts")
    first = 32 if "--accum=[(0, 2), (4, 1)]" in more else 16
    assert sorted({record["tokens"] for record in records(tmp_path / "whole")}) == [
        *(first * step for step in range(1, 5)),
        *(4 * first + 64 * step for step in range(1, 5)),
    ]
