"""A copy of the workflow in which Snakemake can be run."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

PARTS = (
    "Snakefile",
    "config.yaml",
    "config",
    "workflow",
    "profiles",
    "envs",
    "src",
    "resources/published.tsv",
    "resources/synonyms.tsv",
)


class Checkout:
    """A copy of the workflow in a folder of its own, in which Snakemake can be run."""

    def __init__(self, root: Path, folder: Path):
        self.folder = folder
        for part in PARTS:
            (folder / part).parent.mkdir(parents=True, exist_ok=True)
            if (root / part).is_dir():
                shutil.copytree(root / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
            else:
                shutil.copy2(root / part, folder / part)
        (folder / "resources" / "zoo").symlink_to(root / "resources" / "zoo")

    def snakemake(self, *arguments: str, check: bool = True) -> str:
        command = [sys.executable, "-m", "snakemake", "--cores", "1", *arguments]
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, env=environment)
        text = done.stdout + done.stderr
        assert done.returncode == 0 or not check, text[-4000:]
        return text

    def touch(self, *paths: str) -> None:
        for path in paths:
            file = self.folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()

    def edit(self, path: str, old: str, new: str) -> None:
        file = self.folder / path
        text = file.read_text()
        assert old in text, f"{path} does not contain {old!r}"
        file.write_text(text.replace(old, new, 1))
