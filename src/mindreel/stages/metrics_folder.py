"""Score anybody's clips: a folder of films or arrays against the true ones (`mindreel metrics folder`)."""

from pathlib import Path

from mindreel import artifacts
from mindreel.config import load
from mindreel.dataset import clip_folders
from mindreel.scoring import clip_features
from mindreel.stages import metrics


def folder(
    *,
    pred: Path,
    true: Path | None = None,
    out: Path,
    config: Path = Path("config.yaml"),
    image_classifier: Path | None = None,
    video_classifier: Path | None = None,
    clip: Path | None = None,
    diffusion: Path | None = None,
    workers: int = 1,
) -> None:
    """Score any folder of clips against any other; the summary is printed too.

    Metrics that need a network whose folder is not given are left out. GIF and MP4 lose something of the pictures, so
    scores differ a little from those of the arrays they were made from; quantised colours alone change SSIM.

    Parameters
    ----------
    pred : Path
        Folder of reconstructions: .npy ((F, H, W, 3) or (N, F, H, W, 3) uint8), .gif or .mp4.
    true : Path
        Folder of the true clips under the same names. Without it every clip of `pred` shows the true one on its
        left and the reconstruction on its right half, as side-by-side GIFs do.
    out : Path
        Folder of the tables, as from `metrics score`.
    config : Path
        The configuration whose section metrics (and features) is used.
    image_classifier : Path
        Folders of an image classifier, a VideoMAEForVideoClassification, a CLIPModel and Stable Diffusion.
    video_classifier : Path
        Folders of an image classifier, a VideoMAEForVideoClassification, a CLIPModel and Stable Diffusion.
    clip : Path
        Folders of an image classifier, a VideoMAEForVideoClassification, a CLIPModel and Stable Diffusion.
    diffusion : Path
        Folders of an image classifier, a VideoMAEForVideoClassification, a CLIPModel and Stable Diffusion.
    workers : int
        Clips compared at once.

    Raises
    ------
    InputError
        If clips cannot be read or do not correspond.
    """
    cfg = load(config)
    shown = clip_folders.read_folder(pred)
    truth, shown = clip_folders.halves(shown) if true is None else (clip_folders.read_folder(true), shown)
    arrays = dict(zip(("pred", "true"), clip_folders.matched(shown, truth), strict=True))
    found = clip_features.networks(image_classifier, video_classifier, clip, diffusion, cfg.features)
    made, seen = (
        metrics.Clips(list(array), clip_features.describe(array, found, cfg.features)) for array in arrays.values()
    )
    index = metrics.number(["true"], [arrays["true"]], cfg.metrics.scene_cut)
    labels = {name: network.labels for name, network in found.items() if network.labels}
    metrics.write(out, {"pred": made}, seen, index, labels, workers, cfg.metrics)
    columns = ["metric", "value", "sd", "ci_low", "ci_high", "chance"]
    print(artifacts.load_table(out / "summary.tsv")[columns].to_string(index=False))
