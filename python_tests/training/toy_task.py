"""A task that is not pretraining: a linear head on pictures with labels, trained by the same loop."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from d2v_fast import presets
from d2v_fast.config_json import with_overrides
from d2v_fast.data import ArraySource, Loader, label_stage
from d2v_fast.modalities import modality_of
from d2v_fast.models import Loss
from d2v_fast.run.weights import fill
from d2v_fast.training.fit import Fit
from d2v_fast.training.loop import Loop

LABELS = torch.arange(40) % 4  # which quarter of a picture is bright
NOISE = np.random.default_rng(0).random((40, 8, 8)) * 150
PICTURES = ArraySource("vision", [(NOISE[i] + 90 * (np.arange(8) // 2 == i % 4)).astype(np.uint8) for i in range(40)])


class ToyTask:
    name = "classify"

    def __init__(self):
        torch.manual_seed(0)
        self.network = self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(64, 4))
        self.parameters, self.averages, self.decay = self.head.named_parameters, lambda: None, lambda step: None
        self.monitors, self.log, self.judge = lambda step: {}, lambda step: {}, lambda line, step: []
        self.begin = lambda lines: None
        self.rates, self.held, self.select = dict, lambda step: (), lambda: None

    def counts(self, batch):
        return {"classes": len(batch.labels), "size": 1}

    def losses(self, batch, step, micro_batch):
        classes = F.cross_entropy(self.head(batch.inputs), batch.labels, reduction="sum")
        return {"classes": Loss(classes, len(batch.labels)), "size": Loss(self.head[2].weight.square().sum(), 1, 0.1)}

    def validate(self, batches):
        self.head.eval()
        right = [(self.head(batch.inputs).argmax(1) == batch.labels).float().mean() for batch in batches]
        self.head.train()
        return {"accuracy": float(torch.stack(right).mean())}

    def state(self):
        return {"head": self.head.state_dict()}

    def load(self, checkpoint):
        fill(self.head, checkpoint, "head")


def make_toy(out, device="cpu", **overrides):
    quick = {"steps": 30, "loader": {"batch_size": 4, "accumulation": 2, "holdout": 0.2}, "checkpoint": {"every": 10}}
    config = with_overrides(presets.vision_tiny(), quick | {"log": {"every": 5, "validate_every": 15}} | overrides)
    sampling = modality_of(config).sampling(config.inputs, config.model.embedding, config.loader)

    def open_loader(source, first, engine):
        stages = [label_stage(LABELS)]
        return Loader(source, sampling, config=config.loader, seed=0, stages=stages, first_step=first, engine=engine)

    return Fit(Loop(config, ToyTask(), torch.device(device)), out, lambda run: PICTURES, open_loader)
