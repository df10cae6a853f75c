"""Every optimizer and wrapper reproduces recorded trajectories of reference implementations."""

import pytest

from tests.cases import CASES
from tests.cases_wrappers import WRAPPED
from tests.goldens import FOLDER, deviation, trajectories

GOLDENS = [golden for case in (CASES | WRAPPED).values() for golden in case.goldens]


def marked(golden):
    """A parameter named like its file, slow where the row says so."""
    return pytest.param(golden, id=golden.file, marks=[pytest.mark.slow] * golden.slow)


@pytest.mark.parametrize("golden", [marked(golden) for golden in GOLDENS])
def test_trajectory_is_reproduced(golden):
    assert deviation(golden) <= golden.tolerance
    assert golden.tolerance <= 1e-5 or golden.reason


@pytest.mark.parametrize("golden", GOLDENS[:1], ids=lambda golden: golden.file)
def test_a_wrong_optimizer_is_detected(golden):
    """The comparison itself: the trajectory moves far beyond the tolerance."""
    recorded, _ = trajectories(golden)
    assert all(abs(rows[-1] - rows[0]).max() > 100 * golden.tolerance for rows in recorded.values())


def test_every_row_has_a_quick_recording():
    rows = [case.goldens for case in (CASES | WRAPPED).values() if case.goldens]
    assert all(any(not golden.slow for golden in goldens) for goldens in rows)


def test_every_recorded_trajectory_is_used():
    files = {path.stem for path in FOLDER.glob("*.npz")} - {"problem"}
    assert files == {golden.file for golden in GOLDENS}
