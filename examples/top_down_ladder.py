"""Two layers of latents whose posterior goes the generative way, and shares its path.

Ladder Variational Autoencoders (Sønderby et al., 2016), https://arxiv.org/abs/1602.02282
"""

import torch

from deeplvm import Joint, LatentVariableModel
from deeplvm.conditionals import Bernoulli, Gaussian, PrecisionWeighted, StandardNormal
from deeplvm.data import load
from deeplvm.networks import MLP, Features
from deeplvm.training import Optimization, fit, linear

digits = load("digits", binarize="static")

p = Joint(
    {
        "z2": StandardNormal(4),
        "d | z2": Features(MLP(4, 64)),
        "z1 | d": Gaussian(8, MLP(64, 64)),
        "x | z1, d": Bernoulli((1, 8, 8), MLP(8 + 64, 128)),
    }
)
q = Joint(
    {
        "h1 | x": Features(MLP((1, 8, 8), 128)),
        "h2 | h1": Features(MLP(128, 64)),
        "z2 | h2": Gaussian(4, MLP(64, 64)),
        "d | z2": p["d"],
        "z1 | d, h1": PrecisionWeighted(p["z1"], Gaussian(8, MLP(128, 64))),
    }
)
model = LatentVariableModel(p, q)
print(model)

# KL annealing keeps the upper layer from being switched off at the start.
fit(
    model,
    digits,
    epochs=40,
    optimization=Optimization(learning_rate=3e-3),
    kl_weight=linear(epochs=20),
    quiet=True,
)

with torch.no_grad():
    evidence = model.evidence({"x": digits.batch("test", slice(None))["x"]}, particles=20)
for name in evidence.latents:
    print(f"KL of {name}: {-evidence.expectation(evidence.terms[name]).mean():.2f} nats")
