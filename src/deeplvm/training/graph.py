"""A whole training step as one compiled graph: value, gradient, clipping, and the update."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value
from torch.optim import Adam, Adamax, AdamW

if TYPE_CHECKING:
    from deeplvm.training.step import Step

_SECOND: dict[type, str] = {Adam: "exp_avg_sq", AdamW: "exp_avg_sq", Adamax: "exp_inf"}


class Graph:
    """The ascent of one batch in a single call of compiled code, which Python does not wake.

    Parameters and the optimiser's state are changed in place, so whatever else reads them (a
    checkpoint, an odd last batch that is computed uncompiled) sees the step.

    Args:
        step: A step that :meth:`suits`.
    """

    def __init__(self, step: Step) -> None:
        self.step = step
        whole = _Whole(step)
        known = {parameter: name for name, parameter in whole.named_parameters()}
        self.values = {known[p]: p.detach() for p in step.parameters}
        self.kind = type(step.optimizer)
        self.groups = [
            (known[p], index, (*group["betas"], group["eps"], group["weight_decay"]))
            for index, group in enumerate(step.optimizer.param_groups)
            for p in group["params"]
        ]
        like = step.parameters[0]
        self.rates = [like.new_zeros(()) for _ in step.optimizer.param_groups]
        self.count = like.new_zeros(())  # of this step, from 1
        self.whole = whole
        self.compiled = torch.compile(
            self._ascend, fullgraph=True, dynamic=False, options={"cpp_wrapper": True}
        )

    @staticmethod
    def suits(step: Step) -> bool:
        """Whether it is one: on a CPU, one process, Adam, AdamW or Adamax in their usual form."""
        plain = type(step.optimizer) in _SECOND and not any(
            [g.get("amsgrad") or g.get("maximize") for g in step.optimizer.param_groups]
        )
        # parameters that no module here has cannot be handed over by name
        known = {p for each in (step.model, *step.beside) for p in each.parameters()}
        named = known.issuperset(step.parameters)
        return plain and named and step.device == "cpu" and step.together is None

    def __call__(self, batch: dict[str, Any], kl_weight: Tensor | float) -> tuple[float, bool]:
        """The mean objective, and whether the step was taken: it was finite and not skipped."""
        for rate, group in zip(self.rates, self.step.optimizer.param_groups, strict=True):
            rate.fill_(float(group["lr"]))
        moments, steps = self._state()
        self.count.fill_(steps[0].item() + 1.0)
        value, taken = self.compiled(
            self.values, moments, self.rates, self.count, batch, kl_weight
        )
        if taken:
            torch._foreach_add_(steps, 1.0)
        return value.item(), bool(taken)

    def _state(self) -> tuple[dict[str, list[Tensor]], list[Tensor]]:
        """The optimiser's own tensors: two moments by parameter, and the numbers of steps."""
        optimizer, second = self.step.optimizer, _SECOND[self.kind]
        moments, steps = {}, []
        for (name, *_), parameter in zip(self.groups, self.step.parameters, strict=True):
            state = optimizer.state[parameter]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32)
                state["exp_avg"] = torch.zeros_like(parameter)
                state[second] = torch.zeros_like(parameter)
            moments[name] = [state["exp_avg"], state[second]]
            steps.append(state["step"])
        return moments, steps

    def _ascend(
        self,
        values: Mapping[str, Tensor],
        moments: Mapping[str, Sequence[Tensor]],
        rates: Sequence[Tensor],
        count: Tensor,
        batch: dict[str, Any],
        kl_weight: Tensor | float,
    ) -> tuple[Tensor, Tensor]:
        step = self.step

        def loss(parameters: dict[str, Tensor]) -> Tensor:
            return -functional_call(self.whole, parameters, (batch, kl_weight))

        gradients, negative = grad_and_value(loss)(dict(values))
        taken = negative.isfinite()
        if step.clip is not None or step.skip is not None:
            squares = [gradients[name].square().sum() for name, *_ in self.groups]
            norm = torch.stack(squares).sum().sqrt()
            if step.skip is not None:
                taken = taken & (norm <= step.skip)
            if step.clip is not None:
                factor = (step.clip / (norm + 1e-6)).clamp(max=1.0)  # as torch's own clipping
                gradients = {name: factor * each for name, each in gradients.items()}
        for name, index, numbers in self.groups:
            old = [values[name], *moments[name]]
            new = _updated(self.kind, numbers, rates[index], count, gradients[name], old)
            for place, value in zip(old, new, strict=True):
                place.copy_(torch.where(taken, value, place))
        return -negative, taken


class _Whole(nn.Module):
    """A step's value as a function of all parameters: the model's, and those of what is beside."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.model, self.beside = step.model, nn.ModuleList(step.beside)
        self.step = step

    def forward(self, batch: dict[str, Any], kl_weight: Tensor | float) -> Tensor:
        return self.step.mean(batch, kl_weight)[0]


def _updated(
    kind: type,
    numbers: tuple[float, float, float, float],
    rate: Tensor,
    count: Tensor,
    gradient: Tensor,
    old: Sequence[Tensor],
) -> list[Tensor]:
    r"""Parameter and moments after a step.

    Adam (Kingma & Ba, 2015), https://arxiv.org/abs/1412.6980, with Adamax in its section 7.1;
    AdamW: Decoupled Weight Decay Regularization (Loshchilov & Hutter, 2019),
    https://arxiv.org/abs/1711.05101
    """
    value, first, second = old
    b1, b2, eps, decay = numbers
    if kind is AdamW:
        value = value * (1.0 - rate * decay)
    elif decay:
        gradient = gradient + decay * value
    first = torch.lerp(first, gradient, 1.0 - b1)
    rate = rate / (1.0 - b1**count)
    if kind is Adamax:
        second = torch.maximum(b2 * second, gradient.abs() + eps)
        return [value - rate * first / second, first, second]
    second = b2 * second + (1.0 - b2) * gradient.square()
    scale = (second / (1.0 - b2**count)).sqrt() + eps
    return [value - rate * first / scale, first, second]
