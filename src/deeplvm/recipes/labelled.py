"""Any recipe with latents given a label: each conditional reads it too."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from deeplvm.conditionals.autoregressive import Autoregressive
from deeplvm.conditionals.dequantization import RoundedDown
from deeplvm.conditionals.diffusion import Denoising
from deeplvm.conditionals.flows import Flow
from deeplvm.conditionals.heads import shown
from deeplvm.core.joint import Joint, is_joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.data.records import Data, Description
from deeplvm.networks.features import Features, out_shape_of
from deeplvm.networks.recurrent import Cell
from deeplvm.recipes.catalogue import RecipeError
from deeplvm.recurrent import Recurrent

Made = Callable[..., LatentVariableModel]
_SAYS = """
        given_label: Model x given its label, p(x | y): the label moves what each conditional of p
            and q reads, by a learned vector of each class."""


class Indicator(nn.Module):
    """Labels 0 .. classes-1, shape ``(batch,)``, as one-hot rows ``(batch, classes)``."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        # floating, not saved: it carries the dtype and the device that the model was moved to
        self.register_buffer("labels", torch.arange(float(classes)), persistent=False)

    def forward(self, label: Tensor) -> Tensor:
        """One where the label is, zero elsewhere."""
        labels: Tensor = self.labels  # type: ignore[assignment]
        return (label.unsqueeze(-1) == labels).to(labels.dtype)


class GivenLabel(nn.Module):
    r"""A conditional :math:`p(x | a + e_y, b, \dots)`: a label moves its first parent a.

    To a network whose first layer is linear that is a bias of each class, as if the label were
    read beside a, in the space of a. The last parent is the label, one-hot.

    Args:
        conditional: Reads the parents.
        classes: How many labels there are.
        shape: Of what is seen of the first parent.
    """

    def __init__(self, conditional: nn.Module, classes: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.conditional, self.shape = conditional, shape
        self.move = nn.Linear(classes, torch.Size(shape).numel(), bias=False)
        nn.init.normal_(self.move.weight, std=0.1)
        for name in ("event_shape", "out_shape", "accepts_missing", "embed"):
            if hasattr(conditional, name):  # a joint asks whether there is one
                setattr(self, name, getattr(conditional, name))

    def forward(self, *parents: Tensor) -> Any:
        """What the conditional says given the parents and then the label, ``(batch, classes)``."""
        first, *others, label = parents
        return self.conditional(first + self.move(label).unflatten(-1, self.shape), *others)


def labels_of(
    data: Data | Description, recipe: str, models: str, *, everywhere: bool = False
) -> int:
    """How many labels there are, for a recipe that models what it says with them.

    Raises:
        RecipeError: If there are none, no training row has one, or one is missing ``everywhere``
            it is needed.
    """
    if not data.classes:
        raise RecipeError(
            f"{recipe} models {models}, but {data.name} has no labels; for a table name the "
            f"column that holds them with --label, or take the recipe vae."
        )
    about = data if isinstance(data, Description) else data.description
    none = about.unlabelled.get("train", 0)
    if everywhere and about.unlabelled:
        raise RecipeError(
            f"{recipe} models {models}, but {sum(about.unlabelled.values()):,} rows of "
            f"{data.name} have no label; take the recipe semi_supervised_vae, which needs few, or "
            f"leave those rows out."
        )
    if none and none == about.rows["train"]:
        raise RecipeError(
            f"{recipe} models {models}, but no training row of {data.name} has a label; --split "
            f"the rows otherwise, or take the recipe vae."
        )
    return len(data.classes)


def given_label(recipe: Made) -> Made:
    """A recipe with an option of that name, under which its model is one of x given its label.

    Every name of p and q that has parents gets the label as one more, ``"x | z"`` becomes
    ``"x | z, c"``; names without parents, such as a prior, are as they were, but for elements one
    after another, each of which then reads the label, and for a flow of x, which then starts from
    a draw of each class. Of a picture that is drawn in steps the recurrent cells read it, and of a
    diffusion the network that guesses the noise. The label is an input of the model, never scored,
    as that of ``conditional_vae``.

    A label that each element reads: Conditional Image Generation with PixelCNN Decoders (van den
    Oord et al., 2016), https://arxiv.org/abs/1606.05328; a first draw of each class: Glow:
    Generative Flow with Invertible 1x1 Convolutions (Kingma & Dhariwal, 2018),
    https://arxiv.org/abs/1807.03039
    """

    @functools.wraps(recipe)
    def made(data: Any, *, given_label: bool = False, **options: Any) -> LatentVariableModel:
        model = recipe(data, **options)
        if not given_label:
            return model
        name = recipe.__name__
        classes = labels_of(data, name, "x given its label", everywhere=True)
        return _labelled(model, classes, name)

    option = inspect.Parameter(
        "given_label", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=bool
    )
    signature = inspect.signature(recipe)
    made.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*signature.parameters.values(), option]
    )
    head, mark, tail = (recipe.__doc__ or "").partition("\n\n    Raises:")
    made.__doc__ = f"{head.rstrip()}{_SAYS}{mark or chr(10)}{tail if mark else '    '}"
    return made


def _labelled(model: LatentVariableModel, classes: int, recipe: str) -> LatentVariableModel:
    """The same model, of which each conditional with parents reads the label too."""
    joints = (model.p, model.q)
    owners = [joint.conditional(f.names[0]) for joint in joints for f in joint.order]
    steps = any([not isinstance(joint, Joint) or joint.shared for joint in joints]) or any(
        [is_joint(owner) and not isinstance(owner, (Recurrent, Denoising)) for owner in owners]
    )
    # what a cell, or the chain back, hands on says the label to the rest
    handed = any([isinstance(owner, (Recurrent, Denoising)) for owner in owners])
    key = "k" if "c" in model.names else "c"
    if any([isinstance(owner, RoundedDown) for owner in owners]):
        raise RecipeError(
            f"{recipe} is given the label where the noise of whole numbers is uniform; leave out "
            f"--noise variational, and --dequantize."
        )
    if steps or not any([f.parents or _bends(model, f) for f in model.p.order]):
        why = "goes in steps" if steps else "draws x from nothing that a label could move"
        raise RecipeError(
            f"{recipe} cannot be given the label: its model {why}; take conditional_vae, or vae "
            f"or convolutional_vae with --given-label."
        )
    made: dict[int, nn.Module] = {}  # a module that both have stays one

    def factors(joint: Any) -> dict[str, nn.Module]:
        found: dict[str, nn.Module] = {}
        for factor in joint.order:
            own: Any = joint.conditional(factor.names[0])
            written = factor.key.removesuffix("|").rstrip()
            if joint is model.p and _bends(model, factor):
                found[f"{written} | {key}"] = own.given(Features(nn.Identity(), classes))
            elif isinstance(own, Recurrent):
                mark = "," if factor.parents else " |"
                found[f"{written}{mark} {key}"] = Recurrent(
                    factors(own), start=own.start, outside=[*own.outside, key],
                    repeats=own.repeats,
                )  # fmt: skip
            elif isinstance(own, Denoising):
                found[f"{written}, {key}"] = own.given(key, classes)
            elif not (isinstance(own, Cell) if handed else factor.parents):
                found[written] = own
            else:
                if id(own) not in made:
                    shape = _seen_shape((joint, model.p, model.q), factor.parents[0].name)
                    made[id(own)] = GivenLabel(own, classes, shape)
                found[f"{written}, {key}"] = made[id(own)]
        return found

    def reading(joint: Joint) -> Joint:
        return Joint({f"{key} | y": label, **factors(joint)})

    label = Indicator(classes)
    return LatentVariableModel(reading(model.p), reading(model.q))


def _bends(model: LatentVariableModel, factor: Any) -> bool:
    """Whether p has it without parents, and a label can move it: elements in turn, a flow of x."""
    own = model.p.conditional(factor.names[0])
    if isinstance(own, Flow):
        return own.head.network is None and not set(factor.names) & set(model.q.names)
    return isinstance(own, Autoregressive) and own.network is None


def _seen_shape(joints: Sequence[Any], name: str) -> tuple[int, ...]:
    """The event shape in which networks see a name."""
    joint = next(each for each in joints if name in each.names)
    owner = joint.conditional(name)
    event = getattr(owner, "event_shape", None)
    if event is None:
        event = out_shape_of(owner)
    if event is None:
        raise RecipeError(f"{name!r} does not say its shape, so that no label can move it.")
    return tuple(shown(owner, torch.zeros(1, *event)).shape[1:])
