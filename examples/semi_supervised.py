"""Can fifty labels do? Model M2: the same q whether the label is given or not.

Semi-Supervised Learning with Deep Generative Models (Kingma et al., 2014),
https://arxiv.org/abs/1406.5298
"""

import torch

from deeplvm import Enumerated, Evidence, Joint, LatentVariableModel, elbo
from deeplvm.conditionals import Bernoulli, Categorical, Gaussian, StandardNormal
from deeplvm.data import load
from deeplvm.networks import MLP
from deeplvm.training import Optimization, Phase, fit

digits = load("digits", binarize="static")
train, test = (digits.batch(split, slice(None)) for split in ("train", "test"))
x, y = train["x"].flatten(1), train["y"]
labelled = torch.cat([torch.where(y == digit)[0][:5] for digit in range(10)])  # five of each
every_label = {"y": Enumerated()}

p = Joint(
    {
        "y": Categorical(10),
        "z": StandardNormal(8),
        "x | y, z": Bernoulli(64, MLP(10 + 8, 128)),
    }
)
q = Joint({"y | x": Categorical(10, MLP(64, 128)), "z | x, y": Gaussian(8, MLP(64 + 10, 128))})
model = LatentVariableModel(p, q)


def both(model: LatentVariableModel, batch: dict) -> tuple[Evidence, Evidence]:
    known = model.evidence({"x": x[labelled], "y": y[labelled]}, missing=())
    return known, model.evidence(batch, draw=every_label, missing=())


def gain(ledgers: tuple[Evidence, Evidence]) -> torch.Tensor:
    known, unknown = ledgers
    classification = known.q["y"].log_prob  # log q(y | x) of the labels that are given
    return elbo(unknown).mean() + 0.1 * elbo(known).mean() + 5.0 * classification.mean()


fit(
    model,
    {"x": x},
    phases=[Phase(objective=gain, evidence=both)],
    draw=every_label,
    epochs=30,
    optimization=Optimization(learning_rate=2e-3),
    quiet=True,
)

with torch.no_grad():
    posterior = model.q["y"](test["x"].flatten(1))
    scores = torch.stack([posterior.log_prob(torch.full((len(test["y"]),), k)) for k in range(10)])
accuracy = (scores.argmax(0) == test["y"]).float().mean()
print(f"accuracy with 50 labels: {accuracy:.1%}")
