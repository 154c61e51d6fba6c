"""How good is my model? A variational autoencoder of binary digits, and its likelihood.

Auto-Encoding Variational Bayes (Kingma & Welling, 2014), https://arxiv.org/abs/1312.6114
"""

from deeplvm import Joint, LatentVariableModel
from deeplvm.conditionals import Bernoulli, Gaussian, StandardNormal
from deeplvm.data import load
from deeplvm.likelihood import importance_sampling
from deeplvm.networks import MLP
from deeplvm.training import Optimization, fit

digits = load("digits", binarize="static")

p = Joint({"z": StandardNormal(8), "x | z": Bernoulli((1, 8, 8), MLP(8, 128))})
q = Joint({"z | x": Gaussian(8, MLP((1, 8, 8), 128))})
model = LatentVariableModel(p, q)
print(p, "·", q)

fit(model, digits, epochs=40, optimization=Optimization(learning_rate=3e-3), quiet=True)

estimate = importance_sampling(model, digits.test, particles=200)
print(f"log p(x) = {estimate.mean:.2f} ± {estimate.stderr:.2f} nats a digit of the test rows")
