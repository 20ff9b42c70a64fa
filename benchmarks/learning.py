"""Is learning real? What the encoders of a finished demo have learned, on data they have not seen.

    make demo && python benchmarks/learning.py

- Masked error of the tuned encoders on the test fMRI, as a share of that of the mean predictor (each voxel's training
  mean, 0 after standardisation); of the pretrained one on the HCP segments it was pretrained on.
- Retrieval of held-out training clips after contrastive learning: as logged by the demo, and after the same training
  from an encoder that has seen no MBM (`mbm.init: none`), which this script makes.
- The same by ridge regression on the voxels, and on the directions in which the training volumes vary most: about what
  volumes without labels could tell at best, were all linear.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import RidgeCV
from torch.nn.functional import normalize

from mindreel.artifacts import load_array, load_table
from mindreel.brain.hcp_windows import open_windows
from mindreel.config import Experiment, load
from mindreel.learning import retrieval
from mindreel.learning.contrastive_pairs import held_out_targets, open_pairs
from mindreel.networks.masked_autoencoder import MaskedAutoencoder
from mindreel.stages import contrastive, mbm

DRAWS = 20  # random masks
COMPONENTS = (40, 80)
PENALTIES = np.logspace(-1, 6, 15)


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


def trained_on(results: Path, sub: str) -> dict[str, Path | list[Path]]:
    """What contrastive learning of a subject was given."""
    names = sorted((path.name for path in (results / "targets").glob("seg*")), key=lambda name: int(name[3:]))
    return {
        "bold": results / "roi" / "mind-video" / f"sub-{sub}" / "train.npy",
        "targets": [results / "targets" / name for name in names],
        "frames": [results / "stimuli" / f"{name}.npy" for name in names],
    }


def without_mbm(results: Path, sub: str, experiment: Experiment, out: Path) -> Path:
    """The same contrastive training from a random encoder; its history."""
    own, inputs = experiment.of_subject(sub), trained_on(results, sub)
    none = own.mbm.model_copy(update={"init": "none"})
    mbm.tune(bold=inputs["bold"], out=out / "mbm", scratch=out / "s", cfg=none, sizes=own.pretrain)
    options = {"encoder": own.encoder, "cfg": own.contrastive, "scratch": out / "s", "out": out / "encoder"}
    contrastive.train(mbm=out / "mbm", **inputs, **options)
    return out / "encoder" / "history.tsv"


def by_ridge(results: Path, sub: str, experiment: Experiment) -> dict[str, dict[str, float]]:
    """Retrieval of the same clips by ridge regression from windows to CLIP's embeddings."""
    own, inputs = experiment.of_subject(sub), trained_on(results, sub)
    device = torch.device("cpu")
    pairs = open_pairs(**inputs, encoder=own.encoder, cfg=own.contrastive, device=device)
    targets, ignored = held_out_targets(pairs, own.contrastive.similarity_limit, device)
    volumes = np.asarray(load_array(inputs["bold"]), np.float32).reshape(-1, pairs.voxels)
    spaces = {"voxels": volumes}
    spaces |= {f"{n} components": PCA(n, random_state=0).fit_transform(volumes) for n in COMPONENTS}
    rows = {}
    for name, space in spaces.items():
        seen, row = space[pairs.volumes].reshape(len(pairs.volumes), -1), {}
        for modality, target in targets.items():
            learned = pairs.middle[modality][pairs.learned]
            mean = learned.mean(0)
            ridge = RidgeCV(PENALTIES).fit(seen[pairs.learned], learned - mean)
            guess = normalize(torch.from_numpy(ridge.predict(seen[pairs.held_out])).float(), dim=1)
            centred = normalize(target - torch.from_numpy(mean), dim=1)
            row |= retrieval.accuracy(guess, centred, ignored[modality], modality)
        rows[f"ridge, {name}"] = row
    return rows


def main() -> None:
    """Print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results/demo"))
    options = parser.parse_args()
    results, experiment = options.results, load("config.yaml", "config/demo.yaml").experiments["mind-video"]
    subjects = sorted(path.name.removeprefix("sub-") for path in (results / "contrastive" / "mind-video").iterdir())
    print("| encoder | seen on | masked error / mean predictor's |", "| --- | --- | --- |", sep="\n")
    hcp = open_windows(results / "hcp")[:].astype(np.float32)
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
            rows = {kind: found(path) for kind, path in histories.items()} | by_ridge(results, sub, experiment)
        rows["chance"] = {name: rows["with MBM"][f"chance_{name}"] for name in names}
        for kind, row in rows.items():
            print(f"| {sub} | {kind} | " + " | ".join(f"{row[name]:.2f}" for name in names) + " |", flush=True)


if __name__ == "__main__":
    main()
