"""One clip, by hand."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from tiny_diffusion import ENCODER, FRAMES, SIDE, bold, encoder, stable_diffusion, targets

from mindreel import cli, reconstruct
from mindreel.config import load
from mindreel.errors import InputError
from mindreel.networks.video_unet import inflate
from mindreel.stages import sampling

SEGMENTS, VOLUMES = 2, 3


@pytest.fixture
def run(root, tmp_path, monkeypatch):
    """A folder in which the workflow ran, with everything at toy size; the command in it."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(root / "config.yaml", tmp_path)
    shutil.copytree(root / "config", tmp_path / "config")
    model = stable_diffusion(tmp_path / "sd")
    changes = {"scheduler": "DDIMScheduler", "steps": 2, "guidance_scale": 4.0}
    own = {"encoder": ENCODER.model_dump(), "sampling": changes}
    overlay = {"fetch": {"stable_diffusion": str(model)}, "experiments": {"mind-video": own}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(overlay))
    results = tmp_path / "results" / "demo"
    cotrained, roi = (results / stage / "mind-video" / "sub-1" for stage in ("cotrain", "roi"))
    encoder(cotrained / "encoder")
    inflate(model / "unet", "sparse-causal", "frames").save_pretrained(cotrained / "unet")
    roi.mkdir(parents=True)
    bold(roi / "test.npy", SEGMENTS, VOLUMES)
    bold(roi / "train.npy", 2, 4, seed=9)
    targets(results / "targets", 1, 4)
    (results / "stimuli").mkdir()
    for number in (1, 2):
        seen = np.full((VOLUMES, FRAMES, 2 * SIDE, 2 * SIDE, 3), 60 * number, np.uint8)
        np.save(results / "stimuli" / f"test{number}.npy", seen)

    def command(**options: object) -> int:
        options = {"experiment": "mind-video", "subject": 1, "clip": 4, "out": "clip.gif", **options}
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        return cli.main(["reconstruct", *words, "--configfile", "config/demo.yaml", "own.yaml"])

    return command


def test_it_is_the_clip_of_stage_sampling(run, tmp_path, monkeypatch):
    films = []
    monkeypatch.setattr(reconstruct, "write_film", lambda out, frames, fps: films.append((np.stack(list(frames)), fps)))
    for experiment in ("mind-video", "no-adversarial-guidance"):
        assert run(experiment=experiment) == 0
        config = load("config.yaml", "config/demo.yaml", "own.yaml")
        parts = reconstruct.files(config, experiment, "1")
        cfg = config.experiments[experiment].sampling
        job = {"subject": "1", "control": "fmri", "encoder": ENCODER, "cfg": cfg}
        sampling.sample(**parts, **job, out=tmp_path / "all.npy", scratch=tmp_path / "scratch")
        film, fps = films[-1]
        assert fps == 3 and (film[:, :, : 2 * SIDE] == 120).all()  # clip 4 is volume 1 of test2
        made = np.load(tmp_path / "all.npy")[4]
        assert np.abs(film[:, :, 2 * SIDE :].astype(int) - made).max() <= 1
    assert not np.array_equal(films[0][0], films[1][0])
    run(sample=2)
    assert not np.array_equal(films[0][0], films[2][0])


@pytest.mark.parametrize("suffix", ["gif", "mp4"])
def test_it_writes_a_film(run, tmp_path, suffix):
    assert run(out=f"clip.{suffix}") == 0
    assert (tmp_path / f"clip.{suffix}").stat().st_size > 500
    if suffix == "gif":
        with Image.open(tmp_path / "clip.gif") as image:
            assert image.n_frames == FRAMES and image.size == (4 * SIDE, 2 * SIDE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip": 6}, "--clip: found 6, expected 0 to 5"),
        ({"subject": 7}, "--subject: found '7', demo has 1, 2"),
        ({"subject": 2}, "missing: results/demo/cotrain/mind-video/sub-2, results/demo/roi/mind-video/sub-2/test.npy"),
        ({"experiment": "mindvideo"}, "--experiment: found 'mindvideo', demo has mind-video, "),
        ({"out": "clip.avi"}, "expected .mp4 or .gif"),
    ],
)
def test_what_is_missing_or_wrong_is_named(run, tmp_path, capsys, options, message):
    assert run(**options) == 1
    assert message in capsys.readouterr().err and not list(tmp_path.glob("clip.*"))


def test_the_way_to_a_missing_file_is_told():
    missing = [Path(name) for name in ("a", "b")]
    with pytest.raises(InputError, match=r"missing: a, b; make it with: snakemake a b$"):
        reconstruct._present([], *missing)
    with pytest.raises(InputError, match=r"snakemake --configfile config/demo.yaml -- a b$"):
        reconstruct._present([Path("config/demo.yaml")], *missing)
