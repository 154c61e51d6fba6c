"""How a latent variable is drawn, and how its gradient is estimated; each way a file."""

from deeplvm.core.draws import (
    Draw,
    Drawn,
    Enumerated,
    Held,
    Reparameterised,
    Sampled,
    Suited,
    as_measured,
)

__all__ = [
    "Draw",
    "Drawn",
    "Enumerated",
    "Held",
    "Reparameterised",
    "Sampled",
    "Suited",
    "as_measured",
]
