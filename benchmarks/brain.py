"""One subject's bold and roi at full size: wall time, memory, where the time goes, and how much faster than a loop.

python benchmarks/brain.py [--segments 18] [--jobs 2]

Makes its own runs (CIFTI, 59,412 vertices, 245 volumes, 4 % of them responding) in a temporary folder and deletes them.
The loop is what one would write first: for every vertex of every run numpy.polyfit (order 4) and a z-score, for every
vertex of every segment numpy.corrcoef, for every vertex scipy.stats.ttest_1samp over the segments. It is timed on a few
hundred vertices of two runs and scaled; reading is counted on neither side, and both use one thread. What the machine
could do at best: it reads and writes each number once, as fast as it copies an array.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import scipy.stats

from mindreel.artifacts import load_array, save_array
from mindreel.brain import cleaning, reproducibility, surface
from mindreel.config import load
from mindreel.sections import Bold, Roi
from mindreel.stages import bold

ROOT = Path(__file__).parents[1]
VOLUMES, RESPONDING, SAMPLE, TRIALS = 245, 2400, 300, 5
WORK = ("detrend", "correlate", "t-test")  # what the loop does


def make_runs(folder: Path, segments: int) -> list[Path]:
    """Write two repeats of each segment: noise around 10,000, and the same response in some vertices."""
    rng = np.random.default_rng(0)
    pattern = folder / "pattern.dtseries.nii"
    surface.save_dtseries(pattern, np.zeros((VOLUMES, surface.VERTICES)), 2.0, surface.brain_model_axis())
    header = pattern.read_bytes()[: -4 * VOLUMES * surface.VERTICES]
    pattern.unlink()
    responding = rng.choice(surface.VERTICES, RESPONDING, replace=False)
    paths = []
    for segment in range(1, segments + 1):
        response = 150 * rng.standard_normal((RESPONDING, VOLUMES), np.float32)
        for repeat in (1, 2):
            series = 10000 + 100 * rng.standard_normal((surface.VERTICES, VOLUMES), np.float32)  # as in the file
            series[responding] += response
            paths.append(folder / f"seg{segment}_{repeat}.dtseries.nii")
            paths[-1].write_bytes(header + series.tobytes())
    return paths


def timed(function, *arguments):
    """Call a function: its result, wall seconds, processor seconds."""
    wall, processor = time.perf_counter(), time.process_time()
    result = function(*arguments)
    return result, time.perf_counter() - wall, time.process_time() - processor


def loop(first: np.ndarray, second: np.ndarray, order: int) -> None:
    """The two repeats of a segment, (T, n) each, vertex by vertex: detrended, z-scored, correlated."""
    t = np.arange(len(first))
    for a, b in zip(first.T, second.T, strict=True):
        cleaned = []
        for series in (a.astype(float), b.astype(float)):
            rest = series - np.polyval(np.polyfit(t, series, order), t)
            cleaned.append((rest - rest.mean()) / rest.std(ddof=1))
        np.arctanh(np.corrcoef(*cleaned)[0, 1])


def test_loop(z: np.ndarray) -> None:
    """The t-test of (segments, n) Fisher z, vertex by vertex."""
    for values in z.T:
        scipy.stats.ttest_1samp(values, 0, alternative="greater")


def breakdown(runs: list[Path], cfg: Bold, choice: Roi, segments: int, folder: Path) -> dict[str, np.ndarray]:
    """Wall and processor seconds of every step of bold and roi for the whole subject, from two repeats of a segment.

    Steps are repeated and the shortest time counts: the first call pays for memory that the system hands out.
    """
    found: dict[str, list[np.ndarray]] = {}

    def step(name, function, *arguments):
        trials = [timed(function, *arguments) for _ in range(TRIALS)]
        found.setdefault(name, []).append(np.min([seconds for _, *seconds in trials], axis=0) * segments)
        return trials[-1][0]

    outs = []
    for run in runs:
        series = step("bold: read the CIFTI file", read, run)[1:-4]
        step("bold: check the volumes", cleaning.check_volumes, run, series, 1)
        cleaned, _ = step("bold: detrend and z-score", cleaning.standardise, series, cfg.polynomial_order, 1e-6)
        outs.append(folder / f"{run.name.split('.')[0]}.npy")
        step("bold: write", save_array, outs[-1], cleaned)
    pair = [step("roi: read the cleaned runs", copied, out) for out in outs]
    r = step("roi: correlate", reproducibility.correlate, *pair)
    z = reproducibility.fisher_z(r + 0.01 * np.random.default_rng(0).standard_normal((segments, len(r))))
    tested = np.min([timed(reproducibility.t_test, z, choice.alternative)[1:] for _ in range(TRIALS)], axis=0)
    return {name: np.sum(seconds, axis=0) for name, seconds in found.items()} | {"roi: t-test": tested}


def read(run: Path) -> np.ndarray:
    """A CIFTI run as stage bold reads it: (T, 59412) float32."""
    bold.describe(run, "cifti")
    return bold.open_series(run).read_surface()


def copied(path: Path) -> np.ndarray:
    """An array, read whole."""
    return np.array(load_array(path))


def best_possible(segments: int) -> tuple[float, float]:
    """Bandwidth of a copy (GB/s) and the seconds in which detrending and correlating would read and write once."""
    source = np.ones((surface.VERTICES, VOLUMES - 5), np.float32)
    target = source.copy()
    seconds = min(timed(np.copyto, target, source)[2] for _ in range(20))
    moved = 2 * (2 * source.nbytes) + 2 * source.nbytes  # two runs in and out; both in once more
    return 2 * source.nbytes / seconds / 1e9, segments * moved / (2 * source.nbytes) * seconds


def command(*arguments: str) -> None:
    """Run `mindreel` as the workflow's rules do."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-m", "mindreel", *arguments], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(done.stdout + done.stderr)


def main(segments: int, jobs: int) -> None:
    """Measure and print the tables of benchmarks/README.md."""
    config = load(ROOT / "config.yaml")
    cfg, choice = config.bold, config.experiments["mind-video"].roi
    with TemporaryDirectory() as name:
        folder = Path(name)
        runs = make_runs(folder, segments)
        print(f"{len(runs)} runs of {runs[0].stat().st_size / 2**20:.0f} MiB, {jobs} jobs at a time")

        def clean(run: Path) -> Path:
            out = folder / "bold" / f"{run.name.split('.')[0]}.npy"
            options = ["--run", run, "--source", "cifti", "--volumes", VOLUMES, "--tr-s", 2, "--out", out]
            options += ["--tsnr", out.with_name(f"{out.stem}_tsnr.npy"), "--cfg", cfg.model_dump_json()]
            command("bold", "clean", *map(str, options))
            return out

        start = time.perf_counter()
        with ThreadPoolExecutor(jobs) as pool:
            cleaned = [str(path) for path in pool.map(clean, runs)]
        bold_s = time.perf_counter() - start
        outs = {key: f"{folder}/{key}" for key in ("voxels", "summary", "out", "statistics", "pairs")}
        start = time.perf_counter()
        names = ["--voxels", outs["voxels"], "--summary", outs["summary"], "--maps", f"{folder}/r.dscalar.nii"]
        command("roi", "select", "--bold", *cleaned, *names, "--cfg", choice.model_dump_json())
        select_s = time.perf_counter() - start
        start = time.perf_counter()
        names = [part for key in ("voxels", "out", "statistics", "pairs") for part in (f"--{key}", outs[key])]
        options = ["--tr-s", "2", "--frames", "6", "--cfg", choice.model_dump_json()]
        command("roi", "train", "--bold", *cleaned, *names, *options)
        train_s = time.perf_counter() - start
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        processor_s, most_mb = used.ru_utime + used.ru_stime, used.ru_maxrss / 1024
        selected = json.loads(Path(outs["summary"]).read_text())["selected"]

        steps = breakdown(runs[:2], cfg, choice, segments, folder)
        sample = [read(run)[1:-4, :SAMPLE] for run in runs[:2]]
    z = np.random.default_rng(0).standard_normal((segments, SAMPLE))
    slow = np.array([timed(loop, *sample, cfg.polynomial_order)[1:], timed(test_loop, z)[1:]])
    slow *= surface.VERTICES / SAMPLE
    slow[0] *= segments
    whole = bold_s + select_s + train_s
    print(f"bold {bold_s:.0f} s, roi select {select_s:.0f} s, roi train {train_s:.0f} s: {whole:.0f} s wall")
    print(f"all {len(runs) + 2} commands: {processor_s:.0f} s of processor time")
    print(f"largest memory of one command {most_mb:.0f} MB; {selected} of {RESPONDING} responding vertices selected")
    print("| step | s | processor s | share |\n| --- | --- | --- | --- |")
    total = np.sum(list(steps.values()), axis=0)
    for step, (wall, processor) in steps.items():
        print(f"| {step} | {wall:.2f} | {processor:.2f} | {processor / total[1]:.0%} |")
    reading = sum(processor for step, (_, processor) in steps.items() if "read" in step) / total[1]
    print(f"| all | {total[0]:.2f} | {total[1]:.2f} | |\nreading: {reading:.0%} of the processor time")
    ours = np.sum([steps[name] for name in steps if name.split(": ")[1].split()[0] in WORK], axis=0)
    print(f"loop, from {SAMPLE} vertices: {slow[0, 1]:.0f} s and {slow[1, 1]:.0f} s for the t-tests, processor time")
    print(f"the same work here: {ours[0]:.2f} s wall, {ours[1]:.2f} s processor")
    ratios = {"with": slow.sum(axis=0) / ours, "without": slow[0] / (ours - steps["roi: t-test"])}
    for name, (wall, processor) in ratios.items():
        print(f"{name} the t-test: {processor:.0f} times faster by the processor, {wall:.0f} by the wall")
    speed, least = best_possible(segments)
    print(f"a copy runs at {speed:.1f} GB/s: at least {least:.2f} s for detrend, z-score and correlate")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--segments", type=int, default=18)
    parser.add_argument("--jobs", type=int, default=2)
    main(**vars(parser.parse_args()))
