"""docs/adding.md, followed to the letter: every section is done in a fresh checkout, and what it runs must work.

A code block whose first line has `path=` is written into that file: behind the line that `after=` quotes, in place of
the text that `instead-of=` quotes, or as the whole of a new file. A block of `sh` is run.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from checkouts import Checkout

PAGE = Path(__file__).parents[2] / "docs" / "adding.md"
BLOCK = re.compile(r"^```(\w+) ?([^\n]*)\n(.*?)^```$", re.M | re.S)


def sections():
    """Heading -> text."""
    parts = re.split(r"^## (.+)$", PAGE.read_text(), flags=re.M)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def write(folder, options, text):
    options = dict(word.split("=", 1) for word in shlex.split(options))
    file = folder / options["path"]
    if "after" in options or "instead-of" in options:
        old = file.read_text()
        quoted = options.get("after") or options["instead-of"]
        assert old.count(quoted) == 1, f"{options['path']} holds {quoted!r} {old.count(quoted)} times"
        if "after" in options:
            end = old.index("\n", old.index(quoted)) + 1
            file.write_text(old[:end] + text + old[end:])
        else:
            file.write_text(old.replace(quoted, text.rstrip("\n")))
    else:
        assert not file.exists(), f"{options['path']} is there already"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def run(folder, text):
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(folder / "src")}
    command = ["bash", "-euo", "pipefail", "-c", text]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, f"{text}\n{(done.stdout + done.stderr)[-3000:]}"


@pytest.mark.parametrize("heading", sections())
def test_adding(root, tmp_path, heading):
    checkout = Checkout(root, tmp_path / "checkout")
    blocks = BLOCK.findall(sections()[heading])
    assert any(language == "sh" for language, _, _ in blocks), "nothing is run"
    for language, options, text in blocks:
        if language == "sh":
            run(checkout.folder, text)
        elif "path=" in options:
            write(checkout.folder, options, text)
