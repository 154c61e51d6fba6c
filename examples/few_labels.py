"""Can thirty labels do? A classifier that learns from the other digits too, in scikit-learn.

Semi-Supervised Learning with Deep Generative Models (Kingma et al., 2014),
https://arxiv.org/abs/1406.5298
"""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from deeplvm.estimators import VAEClassifier

X, y = load_digits(return_X_y=True)
X = (X > 7).astype(int)  # ink or no ink
X = X[:, X.any(0) & ~X.all(0)]
seen, test, labels, truth = train_test_split(X, y, test_size=400, random_state=0)

few = np.full(len(seen), -1)  # -1: nobody knows
known = np.concatenate([np.flatnonzero(labels == digit)[:3] for digit in range(10)])
few[known] = labels[known]

alone = LogisticRegression().fit(seen[known], labels[known])
classifier = VAEClassifier(
    recipe_options={"latent": 8, "hidden": (128,)},
    max_iter=40,
    learning_rate=3e-3,
    random_state=0,
).fit(seen, few)

print(f"thirty labels alone:        {alone.score(test, truth):.1%}")
print(f"and {len(seen) - 30} digits without any: {classifier.score(test, truth):.1%}")
print(f"log p(x) of a digit: {classifier.score_samples(test).mean():.1f} nats")
