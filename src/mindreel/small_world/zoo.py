"""Micro models: the classes of the full pipeline at a size that a laptop trains, for the small world.

`mindreel zoo build` draws scenes that are in no demo data set (another seed) and trains, in this order,

    vae               AutoencoderKL, 64 x 64 pixels to 8 x 8 x 8 latents
    clip              CLIPModel, frame and caption into one space
    captioner         BlipForConditionalGeneration
    image-classifier  ViTForImageClassification, object x colour
    video-classifier  VideoMAEForVideoClassification, object x motion
    unet              UNet2DConditionModel, conditioned on the caption's CLIP states

Each is a folder written by `save_pretrained`, in half precision (the UNet's matrices in 8 bits). `stable-diffusion/` is
laid out as Stable Diffusion 1.5's folder is. How each is trained is in the modules `micro_*`.
"""

from collections.abc import Callable
from pathlib import Path

from mindreel.artifacts import load_json, save_json
from mindreel.errors import InputError
from mindreel.small_world.micro_captioner import train_captioner
from mindreel.small_world.micro_classifiers import train_image_classifier, train_video_classifier
from mindreel.small_world.micro_clip import train_clip
from mindreel.small_world.micro_unet import train_unet
from mindreel.small_world.micro_vae import train_vae

# Model -> its training and the steps it takes; later ones read earlier ones.
RECIPES: dict[str, tuple[Callable[[Path, int, int], dict[str, float]], int]] = {
    "vae": (train_vae, 4600),
    "clip": (train_clip, 1150),
    "captioner": (train_captioner, 10000),
    "image-classifier": (train_image_classifier, 7000),
    "video-classifier": (train_video_classifier, 2600),
    "unet": (train_unet, 11800),
}


def build(*, out: Path, seed: int = 1234, only: list[str] | None = None, steps: int | None = None) -> None:
    """Train the micro models; all of them take about four hours on two cores.

    Parameters
    ----------
    out : Path
        Folder that the models are written to, with their held-out quality in `quality.json`.
    seed : int
        Seed of the training scenes and of the weights; held-out scenes have the next one.
    only : list of str, optional
        Models to train: vae, clip, captioner, image-classifier, video-classifier, unet. All by default. The UNet needs
        the VAE, CLIP and the image classifier in `out`.
    steps : int, optional
        Training steps of each model; by default each has its own number.

    Raises
    ------
    InputError
        If `only` names a model that does not exist.
    """
    out.mkdir(parents=True, exist_ok=True)
    unknown = set(only or []) - set(RECIPES)
    if unknown:
        raise InputError(f"--only: no such model: {', '.join(sorted(unknown))}; there are {', '.join(RECIPES)}")
    for name in only or RECIPES:
        train, usual_steps = RECIPES[name]
        quality = load_json(out / "quality.json") if (out / "quality.json").exists() else {}
        quality[name] = train(out, seed, steps or usual_steps)
        save_json(out / "quality.json", quality)
        print(name, quality[name])
