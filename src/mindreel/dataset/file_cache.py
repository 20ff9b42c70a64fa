"""What the files of a data set say about themselves, each read once and kept by its size and time of change.

Facts are plain values (JSON); what follows from them is `dataset.check`'s affair. Headers are enough for most; a thin
slice of the data shows values that are not finite, constant runs and copies.
"""

import contextlib
import json
import os
from pathlib import Path

from mindreel.artifacts import save_json
from mindreel.dataset.sheet import Item

VERSION = 1  # of what is kept: raise it whenever facts change, so that older ones are read again


def read(items: list[Item], cache: Path, sample: bool) -> dict[str, dict]:
    """Read the facts of every item whose file is there: path -> facts.

    Parameters
    ----------
    cache : Path
        .json; facts of files whose size and time of change are as kept are not read again.
    sample : bool
        Look at a thin slice of the data, too.
    """
    kept, changed = _kept(cache), False
    found: dict[str, dict] = {}
    bar = None
    for item in items:
        try:
            status = os.stat(item.path)
        except OSError:
            continue
        stamp = [status.st_size, status.st_mtime_ns, item.kind]
        facts = found.get(item.path) or kept.get(item.path)
        if facts is None or facts["stamp"] != stamp or (sample and "sample" not in facts):
            if bar is None:  # these two are slow to import, and mostly nothing has changed
                from tqdm import tqdm

                from mindreel.dataset.inspection import examine

                bar = tqdm(total=len(items), desc="checking files", delay=2, mininterval=1)
            facts = {"stamp": stamp, **examine(item, sample)}
            changed = True
        if bar is not None:
            bar.update()
        found[item.path] = facts | {"file": [status.st_dev, status.st_ino]}
    if bar is not None:
        bar.close()
    if changed:
        _keep(cache, kept | {path: {k: v for k, v in facts.items() if k != "file"} for path, facts in found.items()})
    return found


def _kept(cache: Path) -> dict[str, dict]:
    try:
        content = json.loads(cache.read_text())
        return content["files"] if content["version"] == VERSION else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # never made, or damaged: everything is read again


def _keep(cache: Path, files: dict[str, dict]) -> None:
    with contextlib.suppress(OSError):  # where nothing can be written, the next check reads again
        save_json(cache, {"version": VERSION, "files": {path: files[path] for path in files if os.path.exists(path)}})
