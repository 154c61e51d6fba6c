"""Do more particles train a better model? The same model under two objectives.

Importance Weighted Autoencoders (Burda et al., 2016), https://arxiv.org/abs/1509.00519
"""

from deeplvm import Joint, LatentVariableModel, elbo, iwae
from deeplvm.conditionals import Bernoulli, Gaussian, StandardNormal
from deeplvm.data import load
from deeplvm.likelihood import importance_sampling
from deeplvm.networks import MLP
from deeplvm.training import Optimization, fit

digits = load("digits", binarize="static")

for objective, particles in ((elbo, 1), (iwae, 20)):
    p = Joint({"z": StandardNormal(8), "x | z": Bernoulli((1, 8, 8), MLP(8, 128))})
    q = Joint({"z | x": Gaussian(8, MLP((1, 8, 8), 128))})
    model = LatentVariableModel(p, q)
    fit(
        model,
        digits,
        objective=objective,
        particles=particles,
        epochs=40,
        optimization=Optimization(learning_rate=3e-3),
        quiet=True,
    )
    estimate = importance_sampling(model, digits.test, particles=500)
    print(
        f"trained by {objective.__name__} with {particles} particles: "
        f"log p(x) = {estimate.mean:.2f} ± {estimate.stderr:.2f} nats"
    )
