"""Retrieval of held-out clips."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mindreel.learning import retrieval
from mindreel.networks.fmri_encoder import FmriEncoder

NONE = torch.zeros(6, 6, dtype=torch.bool)


def test_ranks() -> None:
    target = torch.eye(6)
    fmri = F.normalize(torch.tensor([[9, 0, 0, 0, 0, 0], [5, 3, 0, 0, 4, 0]] * 3, dtype=torch.float32), dim=1)
    assert retrieval.ranks(fmri, target, NONE)[:2].tolist() == [0, 2]
    ignored = NONE.clone()
    ignored[1, 0] = True
    assert retrieval.ranks(fmri, target, ignored)[1] == 1
    assert retrieval.ranks(torch.ones(6, 6), target, NONE).tolist() == [5] * 6  # ties count against it


def test_accuracy_of_random_embeddings_is_chance() -> None:
    torch.manual_seed(0)
    fmri, target = F.normalize(torch.randn(2, 600, 8), dim=2)
    alike = torch.arange(600)[:, None] % 3 == torch.arange(600) % 3
    found = retrieval.accuracy(fmri, target, alike.fill_diagonal_(False), "text")
    assert found["chance_text_top1"] == pytest.approx(1 / 401) and found["chance_text_top5"] == pytest.approx(5 / 401)
    assert found["text_top5"] == pytest.approx(5 / 401, abs=0.015)
    few = retrieval.accuracy(fmri[:3], target[:3], torch.zeros(3, 3, dtype=torch.bool), "image")
    assert few["chance_image_top5"] == few["image_top5"] == 1


def test_embeddings_are_without_dropout_and_the_model_goes_on_training(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    size = {"voxels": 16, "patch_size": 8, "width": 16, "depth": 1, "heads": 2, "mlp_ratio": 1.0}
    model = FmriEncoder(**size, window=1, tokens=2, token_width=6, dropout=0.9).train()
    bold = torch.randn(9, 1, 16)
    with torch.no_grad():
        own = F.normalize(model.eval().pool(model(bold)), dim=1)
    monkeypatch.setattr(retrieval, "AT_ONCE", 4)
    nobody = torch.zeros(9, 9, dtype=torch.bool)
    found = retrieval.held_out(model.train(), lambda part: bold[part], np.arange(9), {"image": own}, {"image": nobody})
    assert found["image_top1"] == 1 and model.training
