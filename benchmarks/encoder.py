"""Speed and memory of masked brain modelling: our training step against a naive one, in the same run.

    python benchmarks/encoder.py                  # the paper's size: 1024 wide, 24 deep, 4,496 voxels, batch 8
    python benchmarks/encoder.py --batch 500      # what one GPU can do

The naive step does what a plain port does: the encoder sees every patch (removed ones zeroed), attention writes out its
weights, everything is float32, AdamW runs parameter by parameter. Ours is the step of `mindreel mbm pretrain`.

"Share" is the step's arithmetic (matrix products only, backward twice the forward) over what the device can do: on a
GPU its data sheet's dense bf16 rate, on a CPU the rate of a large float32 matrix product, measured here. Each step runs
in a process of its own, so that its memory is its own. On a CPU speed and share count processor seconds (of all
threads together), so that other load on the machine matters less.
"""

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch
from torch import nn

from mindreel.device import precision, this_device
from mindreel.learning import loop
from mindreel.networks.masked_autoencoder import MaskedAutoencoder
from mindreel.networks.patch_model import Attention
from mindreel.sections import Optimizer

SEGMENTS, EPOCHS = 600_000, 500  # MinD-Video's pretraining
RATIO = 0.75
CFG = Optimizer(
    steps=10**6,
    batch_size=1,
    lr=2.5e-4,
    warmup=1,
    weight_decay=0.05,
    betas=(0.9, 0.95),
    clip_grad=0.8,
    checkpoint_s=1e9,
)
BF16_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12, "3090": 71e12}


def naive_attention(self: Attention, x: torch.Tensor) -> torch.Tensor:
    """Attention that writes out its weights: (N, L, D) -> (N, L, D)."""
    query, key, value = self._split(x)
    weights = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1)
    return self.out((weights @ value).transpose(1, 2).flatten(2))


def naive_loss(model: MaskedAutoencoder, bold: torch.Tensor) -> torch.Tensor:
    """The masked error with an encoder over all patches: bold (B, V)."""
    count = model.config["patches"]
    noise = torch.rand(len(bold), count, device=bold.device)
    visible = noise.argsort(dim=1)[:, : int(count * (1 - RATIO))]
    removed = torch.ones_like(noise, dtype=torch.bool).scatter(1, visible, False)
    x = model.embed(model.patches(bold)) * ~removed[..., None] + model.positions
    for block in model.blocks:
        x = block(x)
    latent = model.norm(x).gather(1, visible[..., None].expand(-1, -1, x.shape[-1]))
    return model.masked_error(bold, model.decode(latent, visible), removed)


def forward_flops(model: MaskedAutoencoder, batch: int, encoded: int) -> float:
    """Multiplications and additions of a forward pass in which the encoder sees `encoded` patches per sample."""
    config, patches = model.config, model.config["patches"]

    def blocks(depth: int, width: int, length: int) -> float:
        hidden = int(width * config["mlp_ratio"])
        return depth * 2 * length * (4 * width**2 + 2 * width * hidden + 2 * length * width)

    embed = 2 * patches * config["patch_size"] * config["width"]
    between = 2 * encoded * config["width"] * config["decoder_width"]
    predict = 2 * patches * config["decoder_width"] * config["patch_size"]
    encoder = blocks(config["depth"], config["width"], encoded)
    decoder = blocks(config["decoder_depth"], config["decoder_width"], patches)
    return batch * (embed + encoder + between + decoder + predict)


def peak_flops(device: torch.device) -> tuple[float, str]:
    """What the device can do, and where the number comes from."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        known = [rate for key, rate in BF16_FLOPS.items() if key in name]
        return (known[0], f"{name}, data sheet") if known else (float("nan"), f"{name}, not in BF16_FLOPS")
    a, b = torch.randn(2, 2048, 2048)
    _, seconds = timed(lambda: a @ b, 3, device)
    return 2 * 2048**3 / seconds, f"float32 matrix product, {torch.get_num_threads()} threads"


def timed(step: Callable, count: int, device: torch.device) -> tuple[float, float]:
    """Run once to warm up, then `count` times: medians of the time (s) and of what the device worked (s)."""
    wait = torch.cuda.synchronize if device.type == "cuda" else (lambda: None)
    walls, works = [], []
    for _ in range(count + 1):
        wait()
        wall, processor = time.perf_counter(), time.process_time()
        step()
        wait()
        walls.append(time.perf_counter() - wall)
        works.append(walls[-1] if device.type == "cuda" else time.process_time() - processor)
    return float(np.median(walls[1:])), float(np.median(works[1:]))


def peak_memory(device: torch.device) -> float:
    """Largest memory so far (GB): of the GPU since its counter was reset, of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def ours(model: MaskedAutoencoder, bold: torch.Tensor, device: torch.device) -> Callable:
    """Our step, as a function without arguments."""
    optimizer = loop.adamw({model: 1.0}, CFG)

    def step() -> None:
        noise = torch.rand(len(bold), model.config["patches"], device=device)
        with precision(device):
            loss = model(bold, RATIO, noise)
        loop.set_lr(optimizer, loop.cosine_lr(1.5, CFG))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(loop.weights(optimizer), CFG.clip_grad)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def naive(model: MaskedAutoencoder, bold: torch.Tensor) -> Callable:
    """The naive step, as a function without arguments."""
    for module in model.modules():
        if isinstance(module, Attention):
            module.forward = naive_attention.__get__(module)
    optimizer = torch.optim.AdamW(model.parameters(), lr=CFG.lr, betas=CFG.betas, weight_decay=0.05, foreach=False)

    def step() -> None:
        loss = naive_loss(model, bold)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CFG.clip_grad)
        optimizer.step()
        loss.item()

    return step


def measure(kind: str, options: argparse.Namespace) -> dict[str, float | str]:
    """Time one kind of step; runs in a process of its own."""
    device = this_device()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    sizes = {"patch_size": 16, "width": options.width, "depth": options.depth, "heads": 16, "mlp_ratio": 1.0}
    decoder = {"decoder_width": options.decoder_width, "decoder_depth": options.decoder_depth, "decoder_heads": 16}
    model = MaskedAutoencoder(voxels=options.voxels, **sizes, **decoder).to(device).train()
    bold = torch.randn(options.batch, options.voxels, device=device)
    patches = model.config["patches"]
    encoded = int(patches * (1 - RATIO)) if kind == "ours" else patches
    if kind == "ours":
        model.gradient_checkpointing = options.gradient_checkpointing
        if options.compile:
            model.compile()
        step = ours(model, bold, device)
    else:
        step = naive(model, bold)
    wall, busy = timed(step, options.steps, device)
    work, memory = 3 * forward_flops(model, options.batch, encoded), peak_memory(device)
    rate, source = peak_flops(device)
    parameters = sum(p.numel() for p in model.parameters())
    return {"s": wall, "busy": busy, "work": work, "rate": rate, "of": source, "memory": memory, "size": parameters}


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--voxels", type=int, default=4496)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--depth", type=int, default=24)
    parser.add_argument("--decoder-width", type=int, default=512)
    parser.add_argument("--decoder-depth", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5, help="timed steps of each kind, after one to warm up")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the CPU")
    parser.add_argument("--skip-naive", action="store_true", help="for batches that the naive step has no memory for")
    parser.add_argument("--gradient-checkpointing", action="store_true", help="as in pretrain")
    parser.add_argument("--compile", action="store_true", help="as in pretrain")
    options = parser.parse_args()
    print("| step | s | busy s | samples/busy s | TFLOP | share | memory GB |", "| --- " * 7 + "|", sep="\n")
    found = {}
    for kind in ("ours",) if options.skip_naive else ("ours", "naive"):
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as own:
            found[kind] = row = own.submit(measure, kind, options).result()
        speed, share = options.batch / row["busy"], row["work"] / row["busy"] / row["rate"]
        shown = (row["s"], row["busy"], speed, row["work"] / 1e12, share, row["memory"])
        print("| " + " | ".join([kind, *(f"{value:.3g}" for value in shown)]) + " |", flush=True)
    mine = found["ours"]
    print(f"{mine['size'] / 1e6:.1f} M parameters; {mine['rate'] / 1e12:.3g} TFLOP/s: {mine['of']}")
    if "naive" in found:
        print(f"ours is {found['naive']['busy'] / mine['busy']:.2f} times as fast as naive")
    hours = EPOCHS * SEGMENTS / options.batch * mine["s"] / 3600
    print(f"{EPOCHS} epochs of {SEGMENTS:,} segments at this pace: {hours:,.0f} h on 1 device, {hours / 8:,.0f} h on 8")


if __name__ == "__main__":
    main()
