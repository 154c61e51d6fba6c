r"""Semi-amortised inference: the encoder's answer, improved by some gradient steps, as a q."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from deeplvm.conditionals.local import corrected, heads_of, no_correction
from deeplvm.core.joint import Joint, Parent
from deeplvm.core.model import LatentVariableModel
from deeplvm.core.trace import Site, Trace
from deeplvm.gradients import Draw
from deeplvm.inference.refinement import check_latents
from deeplvm.objectives import elbo


class SemiAmortised(nn.Module):
    r"""A q whose parameters are those of an encoder after some ascent of the row's own bound.

    .. math:: \lambda_0 = f_\phi(x), \qquad
              \lambda_{t+1} = \lambda_t + \alpha \nabla_\lambda L(x; \lambda_t, \theta)

    and the draws come from :math:`q(z; \lambda_T)`. :math:`\lambda` are the raw parameters of all
    heads of q. A posterior like any other: it is trained by ``fit`` and evaluated by
    ``importance_sampling``, each of which then takes T + 1 passes where it took one. Gradients of
    the outer objective go through the T steps (second derivatives), or, with ``first_order``, take
    what the steps added for a constant.

    The steps draw from q with the same ``draw`` as the caller; given the noise of the steps,
    :math:`q(z; \lambda_T)` is an ordinary density, so every bound stays a bound. Second
    derivatives are those of reparameterised and enumerated draws; with draws credited by their
    score take ``first_order``. A training step is not one graph for ``torch.compile``, which does
    not trace a gradient inside a gradient.

    Args:
        q: A joint of conditionals with heads.
        p: The generative joint of the same model; held, not owned: its parameters are not among
            those of this module.
        steps: T; 0 is q itself.
        learning_rate: :math:`\alpha`, in raw units a nat.
        objective: What the steps ascend: Evidence to one number per row.
        particles: Draws per row and step; one, without a particle dimension, if left out.
        first_order: Whether to leave out the second derivatives.

    Semi-Amortized Variational Autoencoders (Kim et al., 2018), https://arxiv.org/abs/1802.02550

    Raises:
        ValueError: If q is not such a joint, or ``steps`` is negative.

    Examples:
        >>> from deeplvm.conditionals import Bernoulli, Gaussian, StandardNormal
        >>> from deeplvm.networks import MLP
        >>> p = Joint({"z": StandardNormal(2), "x | z": Bernoulli(6, MLP(2, 8))})
        >>> q = Joint({"z | x": Gaussian(2, MLP(6, 8))})
        >>> model = LatentVariableModel(p, SemiAmortised(q, p, steps=3, learning_rate=0.5))
        >>> elbo(model.evidence({"x": torch.ones(5, 6)})).shape
        torch.Size([5])
    """

    def __init__(
        self,
        q: Joint,
        p: nn.Module,
        *,
        steps: int = 5,
        learning_rate: float = 0.1,
        objective: Callable[[Any], Tensor] = elbo,
        particles: int | None = None,
        first_order: bool = False,
    ) -> None:
        super().__init__()
        if steps < 0:
            raise ValueError(f"SemiAmortised expects steps of at least 0, found {steps}.")
        if not isinstance(q, Joint) or not heads_of(q):
            raise ValueError(
                "SemiAmortised improves the parameters that heads give: its q is a Joint of "
                "conditionals built on deeplvm.conditionals.heads.Head, such as Gaussian; found "
                f"{q}."
            )
        self.q = q
        # In a tuple, so that it is no submodule: p belongs to the model.
        self.amortised = (LatentVariableModel(p, q),)
        self.heads = heads_of(q)
        self.checked = False
        self.steps, self.learning_rate = steps, learning_rate
        self.objective, self.particles, self.first_order = objective, particles, first_order
        self.names = q.names
        own = self.amortised[0].p
        known = dict.fromkeys((*q.inputs, *own.names, *own.inputs))
        self.inputs = tuple([name for name in known if name not in q.names])
        self.symbol = "q"

    def __getitem__(self, name: str) -> nn.Module:
        """The conditional of q that owns a name."""
        return self.q[name]

    def parents(self, name: str) -> tuple[Parent, ...]:
        """The parents of a name in q."""
        return self.q.parents(name)

    def forward(
        self,
        given: Mapping[str, Any],
        batch_shape: tuple[int, ...],
        *,
        draw: Mapping[str, Draw] | None = None,
        default: Draw | None = None,
        missing: frozenset[str] = frozenset(),
        **options: Any,
    ) -> Trace:
        """Improve q for these rows, then score what is given and draw the rest."""
        read = {*self.q.names, *self.q.inputs}
        inputs = {name: site for name, site in given.items() if name in read}
        options |= {"draw": draw, "default": default, "missing": missing}
        if not self.steps:
            return self.q(inputs, batch_shape, **options)
        corrections = self.ascend(
            given, batch_shape[-1], draw=draw, default=default, missing=missing
        )
        with corrected(self.heads, corrections):
            return self.q(inputs, batch_shape, **options)

    def ascend(self, given: Mapping[str, Any], batch: int, **options: Any) -> list[Tensor]:
        r""":math:`\lambda_T - \lambda_0` of each head, shapes ``(batch, *raw_shape)``.

        ``options`` are those of :meth:`~deeplvm.LatentVariableModel.estimate`.
        """
        through = torch.is_grad_enabled() and not self.first_order
        (model,) = self.amortised
        with torch.inference_mode(False), torch.enable_grad():  # noqa: FBT003 - for torch.compile
            if not torch.compiler.is_compiling():
                given = {name: _recordable(value) for name, value in given.items()}
            self._check(given, options)
            corrections = [no_correction(head, batch).requires_grad_() for head in self.heads]
            for _step in range(self.steps):
                with corrected(self.heads, corrections):
                    value, _ = model.estimate(
                        self.objective, given, particles=self.particles, **options
                    )
                gradients = torch.autograd.grad(
                    value.sum(), corrections, create_graph=through, materialize_grads=True
                )
                corrections = [
                    self._moved(correction, gradient, through=through)
                    for correction, gradient in zip(corrections, gradients, strict=True)
                ]
        return corrections if through else [each.detach() for each in corrections]

    @torch.no_grad()
    def _check(self, given: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        """At the first call, that every latent has parameters of its row."""
        if not self.checked:
            (model,) = self.amortised
            check_latents(self.q, model.evidence(given, **options))
            self.checked = True

    def _moved(self, correction: Tensor, gradient: Tensor, *, through: bool) -> Tensor:
        moved = correction + self.learning_rate * gradient
        return moved if through else moved.detach().requires_grad_()

    def __str__(self) -> str:
        return str(self.q)

    def extra_repr(self) -> str:
        order = ", first order" if self.first_order else ""
        return f"steps={self.steps}, learning_rate={self.learning_rate}{order}"


def _recordable(value: Any) -> Any:
    """A value through which gradients may be taken: copied, where inference mode made it."""
    if isinstance(value, Site):
        return replace(value, value=_recordable(value.value))
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value
