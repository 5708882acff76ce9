"""What is asked once of the tested network: figures of training images, how far it sees."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from test_evaluate import TINY, train
from torch import nn

from segstudy.build import build_data
from segstudy.callbacks.test_diagnostics import TestDiagnostics
from segstudy.config.compose import compose_config
from segstudy.inference.evaluate import retest
from segstudy.inference.loading import load_run
from segstudy.metrics import confusion, summary


def test_figures_of_training_images_are_those_of_the_tested_network(tmp_path: Path) -> None:
    """Checked by hand: the fit images of the cache, plain, through the checkpoint."""
    settings = ["data.size=32", "data.train_images=5", "data.val_images=7", "trainer.precision=32-true"]
    folder = train(tmp_path / "run", *settings)
    record = json.loads((folder / "record.json").read_text())
    network, _ = load_run(folder)
    data = build_data(compose_config([*TINY, *settings]))
    counts = torch.zeros(len(data.classes), len(data.classes), dtype=torch.int64)
    batch = data.on_after_batch_transfer(data.roles["fit"].__getitems__(range(5)), 0)
    with torch.no_grad():
        counts += confusion(network(batch["image"]).argmax(1), batch["mask"], len(data.classes))
    assert record["metrics_fit"]["images"] == 5
    for key, value in summary(counts).items():
        np.testing.assert_allclose(record["metrics_fit"][key], value, atol=0.01)  # rounding of another batch size
    field = record["receptive_field"]
    assert field["theoretical"] == field["without_pooling"] > 32
    assert 1 < field["effective"] <= 32
    before = record["metrics_fit"]
    again, _ = retest(folder)
    assert again["metrics_fit"] == before


class See(nn.Module):
    """Logits of two classes that depend on a square of `side` pixels alone."""

    def __init__(self, side: int):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, side, padding=side // 2)
        nn.init.ones_(self.conv.weight)
        with torch.no_grad():
            self.conv.weight[1] *= 2

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.conv(image)


@pytest.mark.parametrize("side", [1, 5, 9])
def test_a_convolution_sees_its_kernel(side: int) -> None:
    final = TestDiagnostics()
    final.middles = list(torch.rand(2, 3, 32, 32))
    module = nn.Module()
    module.network = See(side)
    with torch.inference_mode():
        field = final._receptive_field(module)  # type: ignore[arg-type]
    assert field["theoretical"] == side
    assert field["effective"] == pytest.approx(side, abs=0.6)  # 95 % of equal weights: a little less
