"""How long N-way accuracy and SSIM of a whole test set take, against the plain loops of published code.

python benchmarks/metrics.py [CLIPS]   (1,200 clips of 6 frames: 7,200 frames of 256 x 256 pixels, 1,000 classes)

The plain loops run on a part of the frames and are scaled up. On a shared machine only processor seconds can be
compared; SSIM on all cores takes as many of them as on one, and the fewer seconds on the clock the more cores are free.
"""

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from skimage.metrics import structural_similarity

from mindreel.scoring import image_similarity, statistics
from mindreel.stages.metrics import top_classes

FRAMES, CLASSES, SIDE, TRIALS, TRUE = 6, 1000, 256, 100, 3
LOOP_ACCURACY, LOOP_SSIM = 200, 150  # frames that the plain loops see
DIFFERENT = 20  # clips; more would only fill the memory


def timed(function, *arguments) -> tuple[np.ndarray, object]:
    """Seconds on the clock and of the processors, and the result."""
    start = np.array([time.perf_counter(), time.process_time()])
    result = function(*arguments)
    return np.array([time.perf_counter(), time.process_time()]) - start, result


def accuracies(true: np.ndarray, logits: np.ndarray, ways: int, rng: np.random.Generator) -> np.ndarray:
    """Expected and sampled any-of-three accuracy from logits (N, C) of true and reconstructed frames: (2, N)."""
    beaten_by = statistics.beating(logits, top_classes(true, TRUE))
    expected = statistics.nway_accuracy(beaten_by, CLASSES - TRUE, ways, 1)
    return np.stack([expected, statistics.nway_sampled(beaten_by, CLASSES - TRUE, ways, 1, TRIALS, rng)])


def plain_accuracy(true: np.ndarray, logits: np.ndarray, ways: int, rng: np.random.Generator) -> np.ndarray:
    """Frame by frame, trial by trial, every true class against its own draw's ranking: (N,)."""
    found = []
    for known, said in zip(true, logits, strict=True):
        own = np.argsort(-known)[:TRUE]
        others = np.setdiff1d(np.arange(CLASSES), own)
        hits = 0
        for _ in range(TRIALS):
            drawn = rng.choice(others, ways - 1, replace=False)
            hits += any(np.argsort(-said[np.r_[drawn, one]], kind="stable")[0] == ways - 1 for one in own)
        found.append(hits / TRIALS)
    return np.array(found)


def ssim(pairs: list[tuple[np.ndarray, np.ndarray]], workers: int) -> np.ndarray:
    """SSIM of pairs of clips on so many cores: (N,)."""
    with ThreadPoolExecutor(workers) as pool:
        return np.array(list(pool.map(_ssim_of_clip, pairs)))


def _ssim_of_clip(pair: tuple[np.ndarray, np.ndarray]) -> float:
    return float(np.mean([image_similarity.ssim_rgb_uniform7(a, b) for a, b in zip(*pair, strict=True)]))


def plain_ssim(frames: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Picture by picture with scikit-image: (N,)."""
    return np.array([structural_similarity(a, b, channel_axis=-1, data_range=255) for a, b in frames])


def main(clips: int = 1200) -> None:
    """Print a table in Markdown."""
    rng = np.random.default_rng(0)
    frames, cores = clips * FRAMES, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"{frames:,} frames, {cores} cores\n")
    print("| what | s | processor s | plain loop, scaled up: s | processor s | times faster (processor) | difference |")
    print("| --- | --- | --- | --- | --- | --- | --- |")

    def line(what: str, seconds: np.ndarray, plain: np.ndarray, apart: str) -> None:
        numbers = [f"{x:.2f}" for x in seconds] + [f"{x:,.0f}" for x in plain] + [f"{plain[1] / seconds[1]:,.1f}"]
        print(f"| {what} | {' | '.join(numbers)} | {apart} |", flush=True)

    true, noise = rng.standard_normal((2, frames, CLASSES)).astype(np.float32)
    logits = true + 2 * noise
    for ways in (2, 50):
        seconds, (expected, _) = timed(accuracies, true, logits, ways, rng)
        plain, hits = timed(plain_accuracy, true[:LOOP_ACCURACY], logits[:LOOP_ACCURACY], ways, rng)
        apart = abs(hits.mean() - expected[:LOOP_ACCURACY].mean())
        error = np.sqrt(np.square(statistics.sampling_error(expected[:LOOP_ACCURACY], TRIALS)).sum()) / LOOP_ACCURACY
        line(f"{ways}-way accuracy", seconds, plain * frames / LOOP_ACCURACY, f"{apart / error:.1f} standard errors")

    some = rng.integers(0, 256, (2, DIFFERENT, FRAMES, SIDE, SIDE, 3), np.uint8)
    pairs = [(some[0, n % DIFFERENT], some[1, n * 7 % DIFFERENT]) for n in range(clips)]
    singles = [pair for a, b in pairs[: LOOP_SSIM // FRAMES] for pair in zip(a, b, strict=True)]
    plain, expected = timed(plain_ssim, singles)
    plain *= frames / len(singles)
    for workers in sorted({1, cores}):
        part = pairs if workers == cores else pairs[: max(LOOP_SSIM // FRAMES, clips // 8)]
        seconds, found = timed(ssim, part, workers)
        apart = np.abs(found[: len(singles) // FRAMES] - expected.reshape(-1, FRAMES).mean(1)).max()
        line(f"SSIM, {workers} core{'s' * (workers > 1)}", seconds * clips / len(part), plain, f"{apart:.0e}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
