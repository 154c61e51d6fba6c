"""Pictures that are drawn in steps, on a canvas, as a caption says, or object by object."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from deeplvm.conditionals import Bernoulli, Gaussian, IfPresent, Presence, StandardNormal
from deeplvm.conditionals.posteriors import posterior_of
from deeplvm.core.joint import Joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.data import likelihood_of
from deeplvm.data.records import Data, Description
from deeplvm.data.variable import Variable
from deeplvm.gradients.named import nvil
from deeplvm.networks import (
    LSTM,
    MLP,
    Alignment,
    ConvolutionalLSTM,
    DepthToSpace,
    Features,
    Output,
    SpaceToDepth,
    TextEncoder,
    WeightedMean,
    WordCount,
)
from deeplvm.networks.canvas import AddToCanvas, Canvas, ErrorImage, LastStep, Read, Write
from deeplvm.networks.objects import Cut, Paste, Placement
from deeplvm.objectives import elbo
from deeplvm.recipes.catalogue import RecipeError, trained_with
from deeplvm.recipes.labelled import given_label
from deeplvm.recipes.plain import at_least_one, captioned_of, image_of
from deeplvm.recurrent import Recurrent


# The divergence in closed form and the bound on the gradient are the paper's.
@trained_with(objective=partial(elbo, form="analytic"))
@given_label
def draw(
    data: Data | Description,
    *,
    steps: int = 10,
    latent: int = 10,
    hidden: int = 256,
    attention: bool = True,
    read: int | None = None,
    write: int | None = None,
    posterior: str = "gaussian",
) -> LatentVariableModel:
    r"""Deep recurrent attentive writer: a canvas is added to in steps, seen through a window.

    .. math:: p(x, z_{1:T}) = p(x | c_T) \prod_t N(z_t; 0, I), \qquad
              h_t = \mathrm{LSTM}(z_t, h_{t-1}), \quad c_t = c_{t-1} + \mathrm{write}(h_t)

    q(z_t | x, z_{<t}) is an LSTM too, which reads x and what the canvas lacks of it. Without
    attention and of one step it is the plain variational autoencoder.

    DRAW: A Recurrent Neural Network For Image Generation (Gregor et al., 2015),
    https://arxiv.org/abs/1502.04623

    Args:
        data: Images; their kind decides the likelihood.
        steps: How often the canvas is added to.
        latent: Dimensions of z in each step.
        hidden: Width of both LSTMs.
        attention: Read and write through a grid of Gaussian filters, or the whole picture.
        read: Side of the grid that is read, 5 by default.
        write: Side of the grid that is written, 5 by default.
        posterior: Family of each step's q(z | x), by its name, with options in parentheses if
            any: ``"iaf(transforms=2)"``; :func:`~deeplvm.conditionals.posteriors.known` has them
            all.

    Raises:
        RecipeError: If the data are not images, their likelihood has no mean, or a grid is asked
            for without attention.
    """
    x = image_of(data, "draw")
    return _drawn(
        x, "draw", steps, latent, hidden, _grids(read, write, attention=attention), posterior
    )


# The divergence in closed form is the paper's.
@trained_with(objective=partial(elbo, form="analytic"))
def align_draw(
    data: Data | Description,
    *,
    steps: int = 10,
    latent: int = 10,
    hidden: int = 256,
    features: int = 32,
    state: int = 64,
    attention: bool = True,
    read: int | None = None,
    write: int | None = None,
    posterior: str = "gaussian",
) -> LatentVariableModel:
    r"""Pictures from captions: a canvas is added to in steps, each of which attends to words.

    .. math:: p(x, z | y) = p(x | c_T) \prod_t p(z_t | h_{t-1}), \qquad
              h_t = \mathrm{LSTM}(z_t, \textstyle\sum_i a_{ti} w_i, h_{t-1}), \quad
              a_{ti} \propto \exp(v^\top \tanh(U w_i + W h_{t-1} + b))

    with w what a recurrent network that reads both ways makes of the words y; else it is ``draw``.
    The caption is given, and not modelled: likelihoods are of x given it. Another one is
    ``deeplvm sample RUN --given "caption=a three at the top left"``.

    Generating Images from Captions with Attention (Mansimov et al., 2016),
    https://arxiv.org/abs/1511.02793, without the sharpening of its draws

    Args:
        data: Images, each with a text.
        steps: How often the canvas is added to.
        latent: Dimensions of z in each step.
        hidden: Width of the networks of the steps.
        features: Width of a word's vector.
        state: Width of the network that reads words, in each direction.
        attention: Read and write through a grid of Gaussian filters, or the whole picture.
        read: Side of the grid that is read, 5 by default.
        write: Side of the grid that is written, 5 by default.
        posterior: Family of each step's q(z | x), by its name, with options in parentheses if
            any: ``"iaf(transforms=2)"``; :func:`~deeplvm.conditionals.posteriors.known` has them
            all.

    Raises:
        RecipeError: If the data are not images with a text each, their likelihood has no mean, or
            a grid is asked for without attention.
    """
    at_least_one(features=features, state=state)
    x, said = captioned_of(data, "align_draw")
    reader: dict[str, nn.Module] = {
        f"w | {said.name}": TextEncoder(said.levels or 2, features, state, pooled=False),
        f"k | {said.name}": WordCount(),
    }
    grids = _grids(read, write, attention=attention)
    return _drawn(
        x, "align_draw", steps, latent, hidden, grids, posterior, reader=reader, words=2 * state
    )


def _grids(
    read: int | None, write: int | None, *, attention: bool
) -> tuple[int | None, int | None]:
    """Sides of the grids that are read and written; none without attention."""
    if not attention and (read or write):
        raise RecipeError(
            f"{'read' if read else 'write'} is the side of a window, and there is none without "
            f"attention; leave it out, or say attention."
        )
    at_least_one(**{n: s for n, s in (("read", read), ("write", write)) if s is not None})
    return (read or 5, write or 5) if attention else (None, None)


def _drawn(
    x: Variable,
    recipe: str,
    steps: int,
    latent: int,
    hidden: int,
    grids: tuple[int | None, int | None],
    posterior: str,
    *,
    reader: dict[str, nn.Module] | None = None,
    words: int = 0,
) -> LatentVariableModel:
    """A canvas that is added to in steps.

    Args:
        x: The images.
        recipe: What is built, for messages.
        steps, latent, hidden, posterior: As in :func:`draw`.
        grids: Of :func:`_grids`.
        reader: What makes ``w``, a vector of each word, and ``k``, how many there are.
        words: Width of such a vector.
    """
    at_least_one(steps=steps, latent=latent, hidden=hidden)
    likelihood = _with_mean(likelihood_of(x, Canvas(x.shape)), x, recipe)
    look = Read(likelihood, x.shape, hidden, grids[0])
    out = Features(Output(), hidden)
    start = {"s": 2 * hidden, "c": x.shape}
    prior: dict[str, nn.Module] = {"z": StandardNormal(latent)}
    heard, above, given = dict[str, nn.Module](), list[str](), ""
    if reader:  # what a step hears, and its prior, follow from the steps before
        start["h"] = hidden
        prior = {"z | h[-1]": Gaussian(latent, Features(nn.Identity(), hidden))}
        heard = {"a | w, h[-1], k": Alignment(words, hidden), "m | a, w": WeightedMean(words)}
        above, given = ["w", "k"], "w, k"
    paint = {
        **heard,
        f"s | z, {'m, ' if reader else ''}s[-1]": LSTM(latent + words, hidden),
        "h | s": out,
        "c | h, c[-1]": Write(hidden, x.shape, grids[1]),
    }
    p = Recurrent({**prior, **paint}, start=start, outside=above, repeats=steps)
    q = Recurrent(
        {
            "r | x, c[-1], h[-1]": look,
            "e | r, e[-1]": LSTM(look.out_features, hidden),
            "z | e": posterior_of(posterior, latent, out),
            **paint,
        },
        start={**start, "e": 2 * hidden, "h": hidden},
        outside=["x", *above],
        repeats=steps,
    )
    read = reader or {}
    drawn = f"{', '.join(p.names)}{f' | {given}' if given else ''}"
    inferred = f"{', '.join(q.names)} | {', '.join(['x', *above])}"
    return LatentVariableModel(
        Joint({**read, drawn: p, "l | c": LastStep(x.shape), "x | l": likelihood}),
        Joint({**read, inferred: q}),
    )


# The divergence in closed form is the paper's.
@trained_with(objective=partial(elbo, form="analytic"))
@given_label
def convolutional_draw(
    data: Data | Description,
    *,
    steps: int = 6,
    latent: int = 4,
    hidden: int = 24,
    posterior: str = "gaussian",
) -> LatentVariableModel:
    r"""A canvas that convolutions add to in steps, each of its own prior: lossy compression.

    .. math:: p(x, z_{1:T}) = p(x | c_T) \prod_t p(z_t | h_{t-1}), \qquad
              h_t = \mathrm{ConvLSTM}(z_t, h_{t-1}), \quad c_t = c_{t-1} + f(h_t)

    Latents and states are maps of a quarter of the height and width. What the first steps say of
    a picture, and what p makes of the rest, is ``deeplvm reconstruct --depth``.

    Towards Conceptual Compression (Gregor et al., 2016), https://arxiv.org/abs/1604.08772

    Args:
        data: Images; their kind decides the likelihood.
        steps: How often the canvas is added to.
        latent: Channels of z in each step.
        hidden: Channels of both LSTMs.
        posterior: Family of each step's q(z | x), by its name, with options in parentheses if
            any: ``"iaf(transforms=2)"``; :func:`~deeplvm.conditionals.posteriors.known` has them
            all.

    Raises:
        RecipeError: If the data are not images, or their likelihood has no mean.
    """
    at_least_one(steps=steps, latent=latent, hidden=hidden)
    x = image_of(data, "convolutional_draw")
    likelihood = _with_mean(likelihood_of(x, Canvas(x.shape)), x, "convolutional_draw")
    channels, height, width = x.shape
    half_way = SpaceToDepth((2 * channels, height, width), hidden)
    down = SpaceToDepth(half_way.out_shape, hidden)
    size = down.out_shape[1:]
    up = [DepthToSpace(hidden, half_way.out_shape), nn.ELU(), DepthToSpace(hidden, x.shape)]
    out = Features(Output(3), down.out_shape)
    paint = {
        "s | z, s[-1]": ConvolutionalLSTM(latent, hidden, size),
        "h | s": out,
        "c | h, c[-1]": AddToCanvas(Features(nn.Sequential(*up), x.shape)),
    }
    start = {"s": (2 * hidden, *size), "h": down.out_shape, "c": x.shape}
    prior = Gaussian((latent, *size), Features(nn.Identity(), down.out_shape))
    p = Recurrent({"z | h[-1]": prior, **paint}, start=start, repeats=steps)
    q = Recurrent(
        {
            "d | x, c[-1]": ErrorImage(likelihood),
            "r | d": Features(nn.Sequential(half_way, nn.ELU(), down, nn.ELU()), down.out_shape),
            "e | r, h[-1], e[-1]": ConvolutionalLSTM(2 * hidden, hidden, size),
            "z | e": posterior_of(posterior, (latent, *size), out),
            **paint,
        },
        start={**start, "e": (2 * hidden, *size)},
        outside=["x"],
        repeats=steps,
    )
    return LatentVariableModel(
        Joint({"z, s, h, c": p, "l | c": LastStep(x.shape), "x | l": likelihood}),
        Joint({"d, r, e, z, s, h, c | x": q}),
    )


# The estimator of the presences is the paper's.
@trained_with(estimator=nvil, learning_rate=3e-4, averaging=0.0)
def attend_infer_repeat(
    data: Data | Description,
    *,
    steps: int = 3,
    latent: int = 20,
    hidden: int = 200,
    window: int = 16,
    share: float = 0.5,
) -> LatentVariableModel:
    r"""Objects one after another, each there or not, somewhere, of some look; they are counted.

    .. math:: p(x, n, w, y) = p(x | c_T) \prod_t p(n_t | n_{t-1})\, N(w_t; 0, I)\, N(y_t; 0, I),
              \qquad c_t = c_{t-1} + n_t\, T_{w_t}(f(y_t))

    q looks at x and at what the canvas lacks of it, says whether one more object is there, where,
    and what the window shows there. Of pictures whose label is a number, such as ``multi-mnist``,
    ``evaluate`` says how often the objects are as many.

    Attend, Infer, Repeat: Fast Scene Understanding with Generative Models (Eslami et al., 2016),
    https://arxiv.org/abs/1603.08575

    Args:
        data: Images; their kind decides the likelihood.
        steps: The most objects that a picture can have.
        latent: Dimensions of y, what is said of an object's look.
        hidden: Width of the networks and of the LSTM.
        window: Side of an object's window, in pixels of its own.
        share: Which share of a side of the picture an object takes, in the mean.

    Raises:
        RecipeError: If the data are not images, or their likelihood has no mean.
    """
    at_least_one(steps=steps, latent=latent, hidden=hidden, window=window)
    if not 0 < share <= 1:
        raise RecipeError(
            f"share is of a side of the picture, above 0 and at most 1, not {share}."
        )
    x = image_of(data, "attend_infer_repeat")
    likelihood = _with_mean(likelihood_of(x, Canvas(x.shape)), x, "attend_infer_repeat")
    placement, out = Placement(share), Features(Output(), hidden)
    cut = Cut(x.shape[0], window, placement)
    paste = {
        "c | present, where, what, c[-1]": Paste(x.shape, window, latent, (hidden,), placement)
    }
    start = {"present": torch.ones(1), "c": x.shape}
    p = Recurrent(
        {
            "present | present[-1]": Presence(Bernoulli(1)),
            "where": StandardNormal(3),
            "what": StandardNormal(latent),
            **paste,
        },
        start=start,
        repeats=steps,
    )
    q = Recurrent(
        {
            "d | x, c[-1]": ErrorImage(likelihood),
            "f | d": MLP((2 * x.shape[0], *x.shape[1:]), hidden),
            "s | f, s[-1]": LSTM(hidden, hidden),
            "h | s": out,
            "present | present[-1], h": Presence(Bernoulli(1, Features(nn.Identity(), hidden))),
            "where | present, h": IfPresent(Gaussian(3, Features(nn.Identity(), hidden))),
            "g | x, where": cut,
            "what | present, g, h": IfPresent(
                Gaussian(latent, MLP(cut.out_features + hidden, hidden))
            ),
            **paste,
        },
        start={**start, "s": 2 * hidden},
        outside=["x"],
        repeats=steps,
    )
    return LatentVariableModel(
        Joint({"present, where, what, c": p, "l | c": LastStep(x.shape), "x | l": likelihood}),
        Joint({"d, f, s, h, present, where, g, what, c | x": q}),
    )


def _with_mean(likelihood: nn.Module, x: Variable, recipe: str) -> nn.Module:
    """The likelihood of a canvas, if it has a mean, which the encoder sees."""
    try:
        with torch.no_grad():
            _ = likelihood(torch.zeros(1, *x.shape)).mean
    except NotImplementedError:
        raise RecipeError(
            f"{recipe} shows its encoder x - E[x], what is left to draw, but the likelihood "
            f"{x.likelihood} has no mean; take another --likelihood, or the recipe vae."
        ) from None
    return likelihood
