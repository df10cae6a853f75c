"""Every optimizer and wrapper reproduces recorded trajectories of reference implementations."""

import pytest

from tests.cases import CASES
from tests.cases_wrappers import WRAPPED
from tests.goldens import FOLDER, deviation, trajectories

GOLDENS = [golden for case in (CASES | WRAPPED).values() for golden in case.goldens]


@pytest.mark.parametrize("golden", GOLDENS, ids=lambda golden: golden.file)
def test_trajectory_is_reproduced(golden):
    assert deviation(golden) <= golden.tolerance
    assert golden.tolerance <= 1e-5 or golden.reason


@pytest.mark.parametrize("golden", GOLDENS[:1], ids=lambda golden: golden.file)
def test_a_wrong_optimizer_is_detected(golden):
    """The comparison itself: the trajectory moves far beyond the tolerance."""
    recorded, _ = trajectories(golden)
    assert all(abs(rows[-1] - rows[0]).max() > 100 * golden.tolerance for rows in recorded.values())


def test_every_recorded_trajectory_is_used():
    files = {path.stem for path in FOLDER.glob("*.npz")} - {"problem"}
    assert files == {golden.file for golden in GOLDENS}
