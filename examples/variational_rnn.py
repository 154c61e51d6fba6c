"""A latent at every step: digits read row by row, with a memory that p and q share.

A Recurrent Latent Variable Model for Sequential Data (Chung et al., 2015),
https://arxiv.org/abs/1506.02216
"""

import torch

from deeplvm import LatentVariableModel, Recurrent, elbo
from deeplvm.conditionals import Bernoulli, Gaussian
from deeplvm.data import load
from deeplvm.networks import GRU, MLP
from deeplvm.training import Optimization, fit

digits = load("digits", binarize="static")
rows, test = ({"x": digits.batch(split, slice(None))["x"][:, 0]} for split in ("train", "test"))

p = Recurrent(
    {
        "z | h[-1]": Gaussian(4, MLP(64, 32)),
        "x | z, h[-1]": Bernoulli(8, MLP(4 + 64, 64)),
        "h | x, z, h[-1]": GRU(8 + 4, 64),
    },
    start={"h": 64},
    repeats=8,
)
q = Recurrent(
    {"z | x, h[-1]": Gaussian(4, MLP(8 + 64, 32)), "h | x, z, h[-1]": p["h"]}, start={"h": 64}
)
model = LatentVariableModel(p, q)
print(p, "·", q)

fit(model, rows, epochs=20, optimization=Optimization(learning_rate=3e-3), quiet=True)

with torch.no_grad():
    print(f"ELBO {elbo(model.evidence(test, particles=10)).mean():.2f} nats a digit")
for line in model.sample(1)["x"].value[0]:
    print("".join(["██" if pixel else "  " for pixel in line]))
