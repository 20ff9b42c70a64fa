"""Is learning real? What the encoders of a finished demo have learned, on data they have not seen.

    make demo && python benchmarks/learning.py

- Masked error of the tuned encoders on the test fMRI, as a share of that of the mean predictor (each voxel's training
  mean, 0 after standardisation); of the pretrained one on the HCP segments it was pretrained on.
- Retrieval of held-out training clips after contrastive learning: as logged by the demo, and after the same training
  from an encoder that has seen no MBM (`mbm.init: none`), which this script makes.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch

from mindreel import contrastive, mbm
from mindreel.artifacts import load_array, load_table
from mindreel.config import Experiment, load
from mindreel.encoder import MaskedAutoencoder
from mindreel.segments import open_segments

DRAWS = 20  # random masks


@torch.no_grad()
def share_of_mean_predictor(folder: Path, bold: np.ndarray, ratio: float, mean: np.ndarray | float) -> float:
    """Masked error of a model over that of predicting the mean: bold (N, V), mean (V,)."""
    model, generator = MaskedAutoencoder.from_pretrained(folder), torch.Generator().manual_seed(0)
    seen, flat = torch.from_numpy(np.asarray(bold, np.float32)), 0.0
    error, fallback = 0.0, torch.from_numpy(np.broadcast_to(np.float32(mean), bold.shape[1:]).copy())
    for _ in range(DRAWS):
        noise = torch.rand(len(seen), model.config["patches"], generator=generator)
        restored, removed = model.reconstruct(seen, ratio, noise)
        error += model.masked_error(seen, restored, removed).item()
        flat += model.masked_error(seen, model.patches(fallback.expand_as(seen)), removed).item()
    return error / flat


def found(history: Path) -> dict[str, float]:
    """Retrieval of held-out clips at the end of a training."""
    return load_table(history).dropna().iloc[-1].to_dict()


def without_mbm(results: Path, sub: str, experiment: Experiment, out: Path) -> Path:
    """The same contrastive training from a random encoder; its history."""
    own = experiment.of_subject(sub)
    train = results / "roi" / "mind-video" / f"sub-{sub}" / "train.npy"
    none = own.mbm.model_copy(update={"init": "none"})
    mbm.tune(bold=train, out=out / "mbm", scratch=out / "s", cfg=none, sizes=own.pretrain)
    targets = sorted((results / "targets").iterdir(), key=lambda path: int(path.name.removeprefix("seg")))
    frames = [results / "stimuli" / f"{path.name}.npy" for path in targets]
    options = {"encoder": own.encoder, "cfg": own.contrastive, "scratch": out / "s", "out": out / "encoder"}
    contrastive.train(mbm=out / "mbm", bold=train, targets=targets, frames=frames, **options)
    return out / "encoder" / "history.tsv"


def main() -> None:
    """Print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results/demo"))
    options = parser.parse_args()
    results, experiment = options.results, load("config.yaml", "config/demo.yaml").experiments["mind-video"]
    subjects = sorted(path.name.removeprefix("sub-") for path in (results / "contrastive" / "mind-video").iterdir())
    print("| encoder | seen on | masked error / mean predictor's |", "| --- | --- | --- |", sep="\n")
    hcp = open_segments(results / "hcp")[:].astype(np.float32)
    folder = results / "mbm" / "mind-video"
    ratio = share_of_mean_predictor(folder / "hcp", hcp, experiment.pretrain.mask_ratio, hcp.mean(0))
    print(f"| pretrained | its HCP segments | {ratio:.2f} |")
    for sub in subjects:
        test = load_array(results / "roi" / "mind-video" / f"sub-{sub}" / "test.npy")
        test = test.reshape(-1, test.shape[2])
        ratio = share_of_mean_predictor(folder / f"sub-{sub}", test, experiment.mbm.mask_ratio, 0.0)
        print(f"| tuned, subject {sub} | test fMRI | {ratio:.2f} |")
    names = [f"{modality}_top{k}" for modality in ("image", "text") for k in (1, 5)]
    print("\n| subject | encoder | " + " | ".join(names) + " |", "| --- " * 6 + "|", sep="\n")
    for sub in subjects:
        with tempfile.TemporaryDirectory() as out:
            histories = {
                "with MBM": results / "contrastive" / "mind-video" / f"sub-{sub}" / "history.tsv",
                "without MBM": without_mbm(results, sub, experiment, Path(out)),
            }
            rows = {kind: found(path) for kind, path in histories.items()}
        rows["chance"] = {name: rows["with MBM"][f"chance_{name}"] for name in names}
        for kind, row in rows.items():
            print(f"| {sub} | {kind} | " + " | ".join(f"{row[name]:.2f}" for name in names) + " |", flush=True)


if __name__ == "__main__":
    main()
