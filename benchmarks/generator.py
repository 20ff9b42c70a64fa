"""Speed and memory of the video generator.

python benchmarks/generator.py sampling            clips per minute and memory against a naive reference (the zoo)
python benchmarks/generator.py sampling --size sd15    the same at Stable Diffusion 1.5's size, random weights
python benchmarks/generator.py sampling --side 32      the zoo on larger latents, where attention weighs more
python benchmarks/generator.py memory              what co-training with the paper's batch of 9 needs, computed
python benchmarks/generator.py check               that computation against a measurement, at a smaller size

The naive reference: one clip per batch, two forwards for guidance, attention written out, float32 (so without autocast
on a GPU). Ours: `--batch` clips per batch, both conditions in one forward, fused attention. Both take the same weights,
noise and steps; they must agree. Processor time on one thread is compared, because other work shares the machine; on a
GPU it is wall time. Every variant runs in a process of its own, so that its peak memory is its own.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
import weakref
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mindreel.device import this_device
from mindreel.diffusion import sampler
from mindreel.networks.fmri_encoder import FmriEncoder
from mindreel.networks.video_unet import VideoUNet, inflate
from mindreel.sections import Sampling

ZOO = Path(__file__).parents[1] / "resources" / "zoo" / "stable-diffusion"


def unfused(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
    """`scaled_dot_product_attention` written out: the whole matrix of weights is in memory."""
    weights = query @ key.transpose(-1, -2) * (scale or query.shape[-1] ** -0.5)
    return (weights if attn_mask is None else weights + attn_mask).softmax(-1) @ value


def build(size: str, side: int) -> tuple[VideoUNet, AutoencoderKL, tuple[int, ...], tuple[int, int]]:
    """A generator and a decoder; the shape (F, C, h, w) of a clip's latents and (L, D) of its condition."""
    device = this_device()
    if size == "zoo":
        unet, vae = inflate(ZOO / "unet", "sparse-causal", "frames", True), sampler.load_vae(ZOO)
    else:
        torch.manual_seed(0)
        unet = VideoUNet(UNet2DConditionModel(sample_size=64, cross_attention_dim=768), "sparse-causal", "frames")
        levels = (128, 256, 512, 512)
        kinds = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
        vae = AutoencoderKL(block_out_channels=levels, layers_per_block=2, **kinds)
        vae.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)
    config = unet.unet.config
    states = {"zoo": 16, "sd15": 77}[size], config.cross_attention_dim
    return unet.eval().requires_grad_(False).to(device), vae, (6, config.in_channels, side, side), states


def run(variant: str, size: str, clips: int, batch: int, steps: int, side: int) -> dict:
    """Sample clips: seconds of denoising and of decoding, per clip; peak memory above what was there before (MiB)."""
    unet, vae, shape, (tokens, width) = build(size, side)
    device, naive = this_device(), variant == "naive"
    cuda = device.type == "cuda"
    clock = time.perf_counter if cuda else time.process_time
    cfg = Sampling(
        scheduler="DDIMScheduler", steps=steps, guidance_scale=3.0, eta=0.0, negative="null-condition",
        noise_beta=0.0, batch_size=1 if naive else batch, seed=0,
    )  # fmt: skip
    scheduler = sampler.make_scheduler(ZOO, cfg.scheduler)
    told = torch.randn((clips + 1, tokens, width), generator=torch.Generator().manual_seed(0)).to(device)
    scale, negative, conditions = cfg.guidance_scale, told[:1], told[1:]

    def ours(latents: torch.Tensor, timestep: torch.Tensor, positive: torch.Tensor) -> torch.Tensor:
        return sampler.predict(unet, latents, timestep, positive, negative, scale)

    def twice(latents: torch.Tensor, timestep: torch.Tensor, positive: torch.Tensor) -> torch.Tensor:
        away, towards = (unet(latents, timestep, states) for states in (negative, positive))
        return away + scale * (towards - away)

    predict = twice if naive else ours
    written_out = mock.patch.object(F, "scaled_dot_product_attention", unfused) if naive else nullcontext()

    def denoise(numbers: range) -> torch.Tensor:
        positive = conditions[numbers.start : numbers.stop]
        noise = [sampler.clip_generator(0, "", number) for number in numbers]
        return sampler.denoise(lambda x, t: predict(x, t, positive), scheduler, shape, noise, cfg, device)

    def now() -> float:
        if cuda:
            torch.cuda.synchronize()
        return clock()

    before = _memory(cuda)
    with torch.inference_mode(), written_out:
        sampler.decode(vae, denoise(range(cfg.batch_size)))  # kernels are chosen, libraries loaded
        denoised, decoded, made = 0.0, 0.0, []
        for first in range(0, clips, cfg.batch_size):
            begin = now()
            latents = denoise(range(first, min(first + cfg.batch_size, clips)))
            middle = now()
            made.append(sampler.decode(vae, latents))
            denoised, decoded = denoised + middle - begin, decoded + now() - middle
    peak = torch.cuda.max_memory_allocated() / 2**20 if cuda else _peak() - before
    means = np.concatenate(made).mean((1, 2, 3, 4)).tolist()
    return {"step": denoised / clips / steps, "decode": decoded / clips, "mib": peak, "means": means}


def _memory(cuda: bool) -> float:
    """Memory of this process now (MiB)."""
    if cuda:
        return 0.0
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def _peak() -> float:
    """Largest memory of this process so far (MiB)."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def sampling(size: str, clips: int, batch: int, steps: int, side: int) -> None:
    """Compare the variants, each in its own process."""
    found = {}
    for variant in ("naive", "ours"):
        options = {"size": size, "clips": clips, "batch": batch, "steps": steps, "side": side}
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        done = subprocess.run(
            [sys.executable, __file__, "variant", "--variant", variant, *words], capture_output=True, check=True
        )
        found[variant] = json.loads(done.stdout.splitlines()[-1])
    difference = np.abs(np.subtract(found["naive"]["means"], found["ours"]["means"])).max()
    if this_device().type == "cpu" and difference > 0.05:
        sys.exit(f"the variants disagree: mean grey levels of a clip differ by up to {difference}")
    print(f"{size}, latents of {side} x {side}, {clips} clips, {steps} DDIM steps with guidance; {this_device()}")
    print(f"ours in batches of {batch}\n")
    print("| | clips per minute | ms per clip and step | ms to decode a clip | peak memory MiB |")
    print("| --- | --- | --- | --- | --- |")
    seconds = {name: result["step"] * steps + result["decode"] for name, result in found.items()}
    for name, result in found.items():
        step_ms, decode_ms = 1e3 * result["step"], 1e3 * result["decode"]
        print(f"| {name} | {60 / seconds[name]:.0f} | {step_ms:.1f} | {decode_ms:.0f} | {result['mib']:.0f} |")
    per_step = found["naive"]["step"] / found["ours"]["step"]
    print(f"\nours is {seconds['naive'] / seconds['ours']:.1f} times as fast, a step {per_step:.1f} times")
    for name, count in (("DDIM", 200), ("DPM-Solver++", 25)):
        each = found["ours"]["step"] * count + found["ours"]["decode"]
        print(f"{name}, {count} steps: {each:.1f} s per clip, {each * 1200 / 3600:.1f} h for 1,200 clips")


class Live(TorchDispatchMode):
    """Counts the bytes of all tensors that are alive, and the most there ever were."""

    def __init__(self):
        super().__init__()
        self.bytes, self.peak, self.seen = 0, 0, {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        self.add(*(tensor for tensor in tree_leaves(made) if isinstance(tensor, torch.Tensor)))
        return made

    def add(self, *tensors: torch.Tensor) -> None:
        for storage in (tensor.untyped_storage() for tensor in tensors):
            key, size = storage._cdata, storage.nbytes()
            if key not in self.seen:
                self.seen[key] = weakref.ref(storage, lambda _, key=key, size=size: self._gone(key, size))
                self.bytes += size
                self.peak = max(self.peak, self.bytes)

    def _gone(self, key: int, size: int) -> None:
        del self.seen[key]
        self.bytes -= size


def memory(batch: int) -> None:
    """What a co-training step at the papers' size takes at its peak, counted on tensors without content.

    The encoder of subject 1 (6,016 voxels, width 1024, depth 24, windows of 2), the UNet of Stable Diffusion 1.5, clips
    of 6 frames of 32 x 32 latents. Peak = weights and buffers + AdamW's two moments of all that is trained (float32),
    + the most that the forward and backward passes keep alive at once, gradients among it. Not counted: what the
    allocator loses and kernels' workspaces; add a tenth.
    """
    print(f"co-training, batch of {batch}\n\n| precision | checkpointing | peak GiB |\n| --- | --- | --- |")
    for half in (False, True):
        for checkpointing in (False, True):
            with FakeTensorMode(allow_non_fake_inputs=True):
                parts = trainee("sd15", checkpointing)
                weights = [weight for part in parts for weight in part.parameters()]
                moments = sum(2 * 4 * weight.numel() for weight in weights if weight.requires_grad)
                held, most = count(*parts, batch, half)
            print(f"| {'bfloat16' if half else 'float32'} | {checkpointing} | {(held + moments + most) / 2**30:.1f} |")


def trainee(size: str, checkpointing: bool) -> tuple[FmriEncoder, VideoUNet]:
    """Encoder and UNet as co-training has them, random: the papers' size, or a fifth as wide."""
    if size == "sd15":
        stock = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)
        patches = {"voxels": 6016, "width": 1024, "depth": 24, "heads": 16, "token_width": 768}
    else:
        stock = UNet2DConditionModel(cross_attention_dim=256, block_out_channels=(64, 128, 256, 256))
        patches = {"voxels": 1024, "width": 256, "depth": 8, "heads": 8, "token_width": 256}
    if isinstance(next(stock.parameters()), FakeTensor):
        stock.to = lambda **_: stock  # tensors without content have no memory format to change
    unet = VideoUNet(stock, "sparse-causal", "frames")
    brain = FmriEncoder(**patches, patch_size=16, mlp_ratio=1.0, window=2, tokens=77, dropout=0.1).eval()
    unet.train_only(("attn1", "attn2", "attn_temp"))
    if checkpointing:
        brain.gradient_checkpointing = True
        unet.save_memory()
    return brain, unet


def step(brain: FmriEncoder, unet: VideoUNet, batch: int, half: bool) -> None:
    """Forward and backward pass of co-training."""
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        states = brain(torch.randn(batch, 2, brain.config["voxels"]))
        noise = torch.randn(batch, 6, 4, 32, 32)
        loss = F.mse_loss(unet(noise, torch.randint(1000, (batch,)), states).float(), noise)
    loss.backward()


def count(brain: FmriEncoder, unet: VideoUNet, batch: int, half: bool) -> tuple[int, int]:
    """Bytes that the models hold, and the most that a step adds; on tensors without content nothing is computed."""
    with Live() as live:
        live.add(*unet.parameters(), *brain.parameters(), *unet.buffers(), *brain.buffers())
        held = live.bytes
        step(brain, unet, batch, half)
    return held, live.peak - held


def check(batch: int) -> None:
    """How near the count of `memory` is to what a process on a CPU really takes, at a size that it can train."""
    print(f"a fifth as wide, batch of {batch}\n\n| precision | checkpointing | counted MiB | measured MiB |")
    print("| --- | --- | --- | --- |")
    # so that glibc gives memory back when a tensor goes
    exact = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0", "OMP_NUM_THREADS": "1"}
    for half in (False, True):
        for checkpointing in (False, True):
            with FakeTensorMode(allow_non_fake_inputs=True):
                counted = count(*trainee("small", checkpointing), batch, half)[1] / 2**20
            words = [f"--batch={batch}", *["--half"] * half, *["--checkpointing"] * checkpointing]
            done = subprocess.run(
                [sys.executable, __file__, "step", *words], capture_output=True, check=True, env=os.environ | exact
            )
            precision = "bfloat16" if half else "float32"
            print(f"| {precision} | {checkpointing} | {counted:.0f} | {float(done.stdout):.0f} |", flush=True)


def measure(batch: int, half: bool, checkpointing: bool) -> float:
    """What a real step adds to this process's memory (MiB), Linux only."""
    parts = trainee("small", checkpointing)
    for _ in range(2):  # the first loads libraries
        for part in parts:
            part.zero_grad(set_to_none=True)
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        before = _memory(False)
        step(*parts, batch, half)
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) / 2**10 - before


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("sampling", "memory", "check", "variant", "step"))
    parser.add_argument("--variant", choices=("naive", "ours"))
    parser.add_argument("--size", choices=("zoo", "sd15"), default="zoo")
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--side", type=int, help="of the latents; the model's own unless given")
    parser.add_argument("--half", action="store_true")
    parser.add_argument("--checkpointing", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(int(torch.get_num_threads() if given.size == "sd15" else 1))
    asked = (given.size, given.clips, given.batch, given.steps, given.side or {"zoo": 8, "sd15": 32}[given.size])
    match given.what:
        case "sampling":
            sampling(*asked)
        case "memory":
            memory(9)
        case "check":
            check(3)
        case "step":
            print(measure(given.batch, given.half, given.checkpointing))
        case "variant":
            print(json.dumps(run(given.variant, *asked)))
