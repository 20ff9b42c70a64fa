"""What clips are made from: the model's condition and its controls, each with a label and what it means."""

from typing import NamedTuple


class Condition(NamedTuple):
    """A condition for people: a few words for tables, and one sentence."""

    label: str
    meaning: str


MODEL = "fmri"  # the first condition of every table; all others are controls
CONDITIONS = {
    MODEL: Condition("fMRI", "Made from the fMRI of the clip: the reconstruction."),
    "shuffled": Condition(
        "shuffled fMRI",
        "Made by the same models from the fMRI of another clip: what a reconstruction scores that knows nothing of its "
        "own clip.",
    ),
    "mean": Condition(
        "mean fMRI",
        "Made by the same models from the mean of the test fMRI, with other noise in every clip: what the generator "
        "shows by itself.",
    ),
    "retrieved": Condition(
        "nearest training clip",
        "The training clip whose CLIP image embedding is nearest to the one decoded from the fMRI: decoding without a "
        "generator.",
    ),
    "random": Condition(
        "random training clip", "A training clip drawn at random: a perfect picture that says nothing of the test clip."
    ),
    "text": Condition(
        "true captions (ceiling)",
        "Made from the caption of the true clip by the generator before co-training: what it shows of a clip "
        "when it is told in words.",
    ),
}
