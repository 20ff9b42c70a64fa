"""What clips are made from: the subject's fMRI (the model) and the controls. All else follows from this list.

A new control is an entry here and a function of its name that makes it, by the entry's source:

- "fmri": a function of `diffusion/fmri_controls.py`; the subject's models sample clips from what it makes of the fMRI.
- "clips": a function of `stages/sampling_controls.py`; it yields clips that exist already.
- "captions": the generator samples clips from the test captions (stage sampling does it; there is one such control).

The configuration (`sampling.controls`), the rules, the tables, the report and the documentation read this list.
"""

from typing import Literal, NamedTuple


class Condition(NamedTuple):
    """What clips are made from.

    Parameters
    ----------
    label : str
        A few words, for tables.
    meaning : str
        What it is made from and what its score says, for the report and the documentation.
    source : "fmri", "captions" or "clips"
        How it is made (see above).
    stage : str
        What decides whose artifact it is (`plan.experiments.STAGES`). "sampling" is made for every subject, all others
        once for all subjects.
    inputs : tuple of str
        Of source "clips": what its function reads besides the true frames (fields of `stages.sampling_controls.Given`).
    gpu : bool
        Of source "clips": whether its function runs a network.
    """

    label: str
    meaning: str
    source: Literal["fmri", "captions", "clips"]
    stage: str = "sampling"
    inputs: tuple[str, ...] = ()
    gpu: bool = False

    @property
    def per_subject(self) -> bool:
        """Whether every subject has clips of its own."""
        return self.stage == "sampling"


MODEL = "fmri"  # the first condition of every table; all others are controls
CONDITIONS = {
    MODEL: Condition("fMRI", "Made from the fMRI of the clip: the reconstruction.", source="fmri"),
    "shuffled": Condition(
        "shuffled fMRI",
        "Made by the same models from the fMRI of another clip: what a reconstruction scores that knows nothing of its "
        "own clip.",
        source="fmri",
    ),
    "mean": Condition(
        "mean fMRI",
        "Made by the same models from the mean of the test fMRI, with other noise in every clip: what the generator "
        "shows by itself.",
        source="fmri",
    ),
    "retrieved": Condition(
        "nearest training clip",
        "The training clip whose CLIP image embedding is nearest to the one decoded from the fMRI: decoding without a "
        "generator.",
        source="clips",
        inputs=("contrastive", "bold", "train_targets", "train_frames"),
        gpu=True,
    ),
    "random": Condition(
        "random training clip",
        "A training clip drawn at random: a perfect picture that says nothing of the test clip.",
        source="clips",
        inputs=("train_frames",),
    ),
    "text": Condition(
        "true captions (ceiling)",
        "Made from the caption of the true clip by the generator before co-training: what it shows of a clip "
        "when it is told in words.",
        source="captions",
        stage="captioned",
    ),
    "vae": Condition(
        "true clips through the VAE (ceiling)",
        "The true clip, encoded and decoded by the generator's VAE: the best that any reconstruction can look like.",
        source="clips",
        stage="decoded",
        inputs=("test_targets", "model"),
        gpu=True,
    ),
}
CONTROLS = tuple(name for name in CONDITIONS if name != MODEL)


def pattern(source: str, per_subject: bool = True) -> str:
    """A regular expression of a source's conditions; sampled ones may have further samples (fmri_2, fmri_3, …)."""
    names = [name for name, each in CONDITIONS.items() if (each.source, each.per_subject) == (source, per_subject)]
    further = r"(_\d+)?" if source != "clips" else ""
    return f"({'|'.join(names) or '(?!)'}){further}"
