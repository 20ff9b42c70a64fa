"""Clips to what frozen networks see in them: class logits, CLIP embeddings, latents, and the motion. Computed once."""

from pathlib import Path

import numpy as np

from mindreel import artifacts
from mindreel.errors import InputError
from mindreel.scoring import clip_features
from mindreel.sections import Features


def extract(
    *,
    clips: list[Path],
    image_classifier: Path,
    video_classifier: Path,
    clip: Path,
    diffusion: Path,
    out: Path,
    cfg: Features,
) -> None:
    """Run every clip once through every network.

    Parameters
    ----------
    clips : list of Path
        (N, F, H, W, 3) uint8 each: lossless arrays, because what a GIF or MP4 keeps of a clip scores differently.
    image_classifier : Path
        Folder of an image classifier of transformers (any that AutoModelForImageClassification reads).
    video_classifier : Path
        Folder of a VideoMAEForVideoClassification.
    clip : Path
        Folder of a CLIPModel.
    diffusion : Path
        Folder in Stable Diffusion's layout: `vae`.
    out : Path
        Folder of labels.json (names of the classes: image, video) and, for each array, a folder of its name with

        - image.npy (N, F, C) float32, logits of the image classifier
        - video.npy (N, C) float32, logits of the video classifier
        - clip.npy (N, F, E) float32, CLIP image embeddings of norm 1
        - latent.npy (N, D) float32, posterior mean of the VAE for the middle frame, flattened
        - flow.npy (N, F - 1, 2, h, w) float32, optical flow from each frame to the next (rows, columns; pixels)
    cfg : Features
        Section features of the configuration.

    Raises
    ------
    InputError
        If an array is not lossless or two have one name, or a network cannot be read.
    """
    arrays = {path.stem: lossless(path) for path in clips}
    if len(arrays) < len(clips):
        raise InputError(f"clips: found two files of one name among {', '.join(map(str, clips))}; rename one")
    found = clip_features.networks(image_classifier, video_classifier, clip, diffusion, cfg)
    with artifacts.atomic(out) as folder:
        folder.mkdir()
        artifacts.save_json(folder / "labels.json", {name: n.labels for name, n in found.items() if n.labels})
        for name, array in arrays.items():
            for kind, features in clip_features.describe(array, found, cfg).items():
                artifacts.save_array(folder / name / f"{kind}.npy", features)


def lossless(path: Path) -> np.ndarray:
    """Open clips (N, F, H, W, 3) uint8; anything else is refused."""
    if Path(path).suffix != ".npy":
        raise InputError(
            f"{path}: found a {Path(path).suffix or 'file without suffix'}, expected a lossless array (.npy), as "
            "sampling writes; for films of others use `mindreel metrics folder`"
        )
    array = artifacts.load_array(path)
    if array.dtype != np.uint8 or array.ndim != 5 or array.shape[-1] != 3:
        raise InputError(f"{path}: found {array.dtype} {array.shape}, expected uint8 (N, F, H, W, 3); rerun sampling")
    return array
