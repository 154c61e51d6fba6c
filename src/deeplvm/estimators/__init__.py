"""Deep latent-variable models as estimators of scikit-learn."""

from deeplvm.estimators.base import DeepEstimator
from deeplvm.estimators.classifier import VAEClassifier
from deeplvm.estimators.density import VAEAnomalyDetector, VAEDensity
from deeplvm.estimators.imputer import VAEImputer
from deeplvm.estimators.topics import TopicVAE
from deeplvm.estimators.vae import VAE

__all__ = [
    "VAE",
    "DeepEstimator",
    "TopicVAE",
    "VAEAnomalyDetector",
    "VAEClassifier",
    "VAEDensity",
    "VAEImputer",
]
