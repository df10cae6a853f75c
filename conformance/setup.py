"""Copies the recordings of the repository into the wheel and the source distribution."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

# In a clone; a source distribution has its copy inside the package.
RECORDINGS = Path(__file__).resolve().parents[1] / "tests" / "golden" / "optimizers"
INSIDE = Path("jaxopt_conformance", "recordings")


def copy_recordings(root: str) -> None:
    """Copy the recordings of a clone to their place below ``root``."""
    if RECORDINGS.is_dir():
        shutil.copytree(RECORDINGS, Path(root) / INSIDE, dirs_exist_ok=True)


class Build(build_py):
    """The package's modules and the recordings."""

    def run(self):
        """Build; an editable install reads the recordings from the clone."""
        super().run()
        if not self.editable_mode:
            copy_recordings(self.build_lib)


class SourceDistribution(sdist):
    """The source distribution with the recordings."""

    def make_release_tree(self, base_dir, files):
        """Write the tree that is archived."""
        super().make_release_tree(base_dir, files)
        copy_recordings(base_dir)


setup(cmdclass={"build_py": Build, "sdist": SourceDistribution})
