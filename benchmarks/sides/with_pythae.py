"""pythae: its models with the networks of the other sides, in its own trainer and out of it."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from pythae.data.datasets import BaseDataset, DatasetOutput
from pythae.models import IWAE, VAE, IWAEConfig, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from torch import Tensor, nn

from sides.networks import networks
from workloads import PIXELS, Workload, indices, pixels

logging.disable(logging.INFO)


class Encoder(BaseEncoder):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> ModelOutput:
        mean, log_variance = self.network(x).chunk(2, -1)
        return ModelOutput(embedding=mean, log_covariance=log_variance)


class Decoder(BaseDecoder):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, z: Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=torch.sigmoid(self.network(z)))


def model_of(workload: Workload) -> VAE:
    """The model of a workload.

    Raises:
        NotImplementedError: If pythae has none.
    """
    if workload.family == "ladder":
        raise NotImplementedError("pythae has no ladder of latents with merged precisions")
    torch.manual_seed(0)
    encoder, decoder = networks(workload)
    shape = (1, 28, 28) if workload.family == "conv" else (PIXELS,)
    options: dict[str, Any] = {
        "input_dim": shape,
        "latent_dim": workload.latent[0],
        "reconstruction_loss": "bce",
    }
    if workload.particles is None:
        return VAE(VAEConfig(**options), encoder=Encoder(encoder), decoder=Decoder(decoder))
    config = IWAEConfig(**options, number_samples=workload.particles)
    return IWAE(config, encoder=Encoder(encoder), decoder=Decoder(decoder))


def model_step(workload: dict[str, Any]) -> Callable[[int], None]:
    """Its model and loss in a loop by hand with fused Adam: the fastest way to use it."""
    what = Workload.of(workload)
    model = model_of(what)
    x = torch.from_numpy(pixels(what))
    order = torch.from_numpy(indices(what))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    turn = 0

    def run(steps: int) -> None:
        nonlocal turn
        for _ in range(steps):
            loss = model(DatasetOutput(data=x[order[turn]])).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            turn = (turn + 1) % len(order)

    return run


def trainer_step(workload: dict[str, Any], *, steps: int) -> Callable[[int], None]:
    """Its trainer: an epoch of so many steps, with its data loader and its Adam."""
    what = Workload.of(workload)
    model = model_of(what)
    x = torch.from_numpy(pixels(what)[: steps * what.batch])
    with tempfile.TemporaryDirectory() as folder, open("/dev/null", "w") as nowhere:
        config = BaseTrainerConfig(
            output_dir=folder,
            per_device_train_batch_size=what.batch,
            learning_rate=1e-3,
            optimizer_params={"fused": True},
        )
        trainer = BaseTrainer(model, BaseDataset(x, torch.zeros(len(x))), training_config=config)
        with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            trainer.prepare_training()
    trainer.callback_handler.callbacks.clear()  # its progress bar

    def run(epochs: int) -> None:
        for epoch in range(epochs):
            trainer.train_step(epoch)

    return run


def likelihood(
    workload: dict[str, Any], *, particles: int, rows: int, gradients: bool, batch: int
) -> Callable[[int], None]:
    """Its ``get_nll``; it works with gradients unless it is told otherwise."""
    what = Workload.of(workload)
    model = model_of(what).eval()
    x = torch.from_numpy(pixels(what))[:rows]

    def run(steps: int) -> None:
        with torch.set_grad_enabled(gradients):
            for _ in range(steps):
                value = model.get_nll(x, n_samples=particles, batch_size=batch)
                assert np.isfinite(value)

    return run
