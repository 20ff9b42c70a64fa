"""The training loop of the micro models."""

import math
from collections.abc import Callable

import torch
from torch import nn
from tqdm import tqdm


def fit(
    model: nn.Module,
    loss_of: Callable[[int], torch.Tensor],
    steps: int,
    lr: float,
    name: str,
    averaged: nn.Module | None = None,
) -> None:
    """Train with AdamW: 100 steps of warm-up, then a cosine down to 2% of the learning rate.

    Parameters
    ----------
    model : Module
        What is trained, in place.
    loss_of : callable
        Gives the loss of a step, a scalar, by the step's number.
    steps : int
        Number of steps.
    lr : float
        Largest learning rate.
    name : str
        What the progress bar calls the model.
    averaged : Module, optional
        A copy of the model that becomes the exponential moving average of its weights, in place.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.01, betas=(0.9, 0.98))
    bar = tqdm(range(steps), desc=name, mininterval=10)
    for step in bar:
        scale = min(1.0, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = lr * scale
        loss = loss_of(step)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if averaged is not None:
            decay = min(0.999, (1 + step) / (10 + step))
            with torch.no_grad():
                for kept, new in zip(averaged.parameters(), model.parameters(), strict=True):
                    kept.lerp_(new, 1 - decay)
        if step % 20 == 0:
            bar.set_postfix(loss=f"{loss.item():.4f}", refresh=False)
