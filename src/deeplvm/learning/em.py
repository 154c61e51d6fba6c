r"""Expectation maximisation as phases: E by the posterior, by a q of each row, or by chains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Adam

from deeplvm.conditionals.local import Local, heads_of
from deeplvm.core.model import LatentVariableModel
from deeplvm.gradients import Draw
from deeplvm.gradients.path_derivatives import StickingTheLanding
from deeplvm.inference.latent_space import LatentSpace
from deeplvm.inference.posterior import first_of
from deeplvm.inference.refinement import check_latents
from deeplvm.inference.rows import at_least
from deeplvm.inference.tempering import Chains
from deeplvm.learning.closed_forms import (
    CorrelatedMixture,
    LinearGaussian,
    MixtureOfGaussians,
    correlated_mixtures_of,
    in_units,
    linear_gaussian_of,
    mixture_of,
)
from deeplvm.learning.wake_sleep import held, of_p, of_q
from deeplvm.objectives import elbo
from deeplvm.parallel.processes import processes
from deeplvm.registry import Count, NonNegative, Positive
from deeplvm.training.phases import Phase
from deeplvm.training.schedules import constant


def exact_em(
    model: LatentVariableModel,
    *,
    start: Literal["model", "data"] = "model",
    tolerance: float = 1e-7,
    shrinkage: NonNegative = 0.0,
    towards: Literal["covariance", "variance"] = "covariance",
    seed: int = 0,
) -> list[Phase]:
    r"""P learns by the exact posterior; its likelihood never falls.

    .. math:: q_n(z) = p_\theta(z | x_n), \qquad
              \theta \leftarrow \arg\max_\theta \sum_n E_{q_n}[\log p_\theta(x_n, z)]

    Known posteriors: :math:`x = Wz + b + \varepsilon` with a standard normal z, with one noise
    variance (probabilistic principal components), one for each element (factor analysis) or a
    fixed one; and mixtures of Gaussians with diagonal covariances, ``Categorical(K)`` for y and
    ``Gaussian(D, MLP(K))`` for ``x | y``, or with full covariances, a ``Mixture`` of
    ``FullCovarianceGaussian(D)`` for x; of a mixture of such mixtures each is learned by itself.
    Missing elements (NaN) are left out, which is exact.

    The rows of an epoch are summed up batch by batch, in float64, and its last batch takes the
    M-step: the size of batches changes nothing. The ``objective`` of an epoch's record is the mean
    :math:`\log p(x)`, nats a row, of the parameters before its M-step. Where q can be the
    posterior of a full row (a full Gaussian of a linear map of x), it is made so; a q of another
    form is left as it is. Where q cannot read missing elements, say what to measure instead.

    Maximum Likelihood from Incomplete Data via the EM Algorithm (Dempster, Laird & Rubin, 1977),
    https://doi.org/10.1111/j.2517-6161.1977.tb01600.x; EM Algorithms for PCA and SPCA (Roweis,
    1998), https://papers.nips.cc/paper/1398-em-algorithms-for-pca-and-spca; Mixtures of
    Probabilistic Principal Component Analyzers (Tipping & Bishop, 1999),
    https://doi.org/10.1162/089976699300016728; Bayesian Regularization for Normal Mixture
    Estimation and Model-Based Clustering (Fraley & Raftery, 2007),
    https://doi.org/10.1007/s00357-007-0004-5

    Args:
        model: Whose posterior it is.
        start: ``"model"`` goes on from the parameters as they are; ``"data"`` starts at the mean
            of the data, and a mixture at rows far from one another (k-means++).
        tolerance: Training ends when an M-step has changed the likelihood by less, nats a row.
            Where the data are renewed at each visit (dequantised), it never does.
        shrinkage: Of full covariances of D elements: each is learned from D further rows, with so
            many times the covariance of all rows. It is what keeps components of few rows from
            infinite densities; the likelihood may then fall.
        towards: What these rows have: ``"covariance"``, that of all rows, or only its diagonal
            (``"variance"``), which is wider where columns go together.
        seed: Of the start.

    Raises:
        ValueError: If p is none of these models; in training, if an element of x is never
            observed.

    Examples:
        >>> from deeplvm import Joint
        >>> from deeplvm.conditionals import FullCovarianceGaussian, Gaussian, StandardNormal
        >>> from deeplvm.networks import MLP
        >>> from deeplvm.training import fit
        >>> _ = torch.manual_seed(0)
        >>> p = Joint({"z": StandardNormal(1), "x | z": Gaussian(3, MLP(1), scale="global")})
        >>> model = LatentVariableModel(p, Joint({"z | x": FullCovarianceGaussian(1, MLP(3))}))
        >>> x = torch.randn(100, 1) * torch.tensor([2.0, 1.0, 0.0]) + 0.1 * torch.randn(100, 3)
        >>> history = fit(
        ...     model, {"x": x}, phases=exact_em(model, tolerance=1e-5), epochs=500, quiet=True)
        >>> history.stopped, len(history.epochs) < 500
        ('phases', True)
        >>> abs(history.best["objective"] - history.best["train"]["elbo"]) < 1e-4
        True
    """
    if start not in ("model", "data"):
        raise ValueError(f"start is 'model' or 'data', not {start!r}.")
    if towards not in ("covariance", "variance"):
        raise ValueError(f"towards is 'covariance' or 'variance', not {towards!r}.")
    law = linear_gaussian_of(model) or mixture_of(model)
    laws = [law] if law else correlated_mixtures_of(model, shrinkage, towards)
    if not laws:
        raise ValueError(
            f"The posterior of {model.p} is not known in closed form here: exact_em learns a "
            f"StandardNormal with a Gaussian of a linear map (MLP without hidden layers), a "
            f"Categorical with such a Gaussian, or a Mixture of FullCovarianceGaussian. For "
            f"others use variational_em or fit."
        )
    if shrinkage and law:
        raise ValueError(
            f"shrinkage is of the full covariances of a mixture, which {model.p} does not have; "
            f"leave it out."
        )
    steps = [
        ClosedForm(law, tolerance=tolerance, seed=seed + place if start == "data" else None)
        for place, law in enumerate(laws)
    ]
    return [Phase(update=m_step, when=m_step.wanted) for m_step in steps]


class ClosedForm(nn.Module):
    r"""An M-step in closed form, taken when as many rows are summed up as there are.

    Args:
        law: The model inside the model.
        by_q: Whether q says what the latents of a row are; by default the exact posterior does.
        tolerance: The least that a step is to gain, nats a row.
        seed: Of a start from the data; none for a start from the parameters as they are.
    """

    gained: Tensor
    before: Tensor
    taken: Tensor

    def __init__(
        self,
        law: LinearGaussian | MixtureOfGaussians | CorrelatedMixture,
        *,
        by_q: bool = False,
        tolerance: float = -torch.inf,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        self.law, self.by_q, self.tolerance, self.seed = law, by_q, tolerance, seed
        self.register_buffer("gained", torch.tensor(torch.inf))

    def wanted(self) -> bool:
        """Whether the last step changed enough for another; renewed noise can also lower it."""
        return abs(float(self.gained)) >= self.tolerance

    def prepare(
        self, model: LatentVariableModel, take: Callable[[int], Any], rows: int, missing: frozenset
    ) -> None:
        """Make room for the sums, and start from the data if so asked."""
        name, likelihood = self.law.observed, self.law.likelihood
        if name not in (first := take(1)):
            raise ValueError(f"The data have no {name!r} to learn from; they have {[*first]}.")
        self.rows, self.missing = rows, missing
        self.gained.fill_(torch.inf)
        if self.seed is not None:
            self.law.start(in_units(likelihood, take(rows)[name]), self.seed)
        u = in_units(likelihood, first[name])
        _, sums = self.law.expect(torch.full_like(u, torch.nan) if name in missing else u)
        self.names = (*sums, "taken", "total")
        self.register_buffer("before", u.new_tensor(-torch.inf))
        for each in self.names:
            self.register_buffer(each, torch.zeros_like(sums.get(each, u.sum())))

    def forward(
        self, model: LatentVariableModel, batch: Mapping[str, Tensor], share: float = 1.0
    ) -> Tensor:
        """Take in some rows; their log p(x), or bound, before the step, ``(rows,)``, nats.

        Raises:
            ValueError: If an element was missing in all rows.
        """
        x = batch[self.law.observed]
        u = in_units(self.law.likelihood, x)
        values, sums = self._by_q(model, batch, u) if self.by_q else self._exactly(u)
        sums |= {"taken": u.new_tensor(len(u)), "total": values.double().sum()}
        for name in self.names:
            own = sums[name] if share else torch.zeros_like(sums[name])
            getattr(self, name).add_(processes().sum(own))
        if self.taken >= self.rows:
            self._step(model)
        return values

    def _exactly(self, u: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        log_px, sums = self.law.expect(u)
        if (units := self.law.likelihood.units) is not None:
            log_units = units.std.double().log().flatten().expand(u.shape[1])
            log_px = log_px - (~u.isnan() * log_units).sum(1)
        return log_px, sums

    def _by_q(
        self, model: LatentVariableModel, batch: Mapping[str, Tensor], u: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        law: Any = self.law
        evidence = model.evidence(batch, missing=self.missing, rows=self.rows)
        normal: Any = evidence.q[law.latent].distribution
        full = hasattr(normal, "covariance_matrix")
        covariance = normal.covariance_matrix if full else torch.diag_embed(normal.variance)
        mean = normal.mean.double()
        return elbo(evidence), law.sums(u, mean, covariance.double().expand(*mean.shape, -1))

    def _step(self, model: LatentVariableModel) -> None:
        sums = {name: getattr(self, name) for name in self.names}
        if absent := int((sums["count"].reshape(-1, sums["count"].shape[-1]).sum(0) == 0).sum()):
            raise ValueError(
                f"{absent} elements of {self.law.observed!r} are missing in every row; leave them "
                f"out of the model."
            )
        mean = sums["total"] / sums["taken"]
        self.gained.copy_(mean - self.before)
        self.before.copy_(mean)
        if self.wanted():
            self.law.maximise(sums)
            if isinstance(self.law, LinearGaussian) and not self.by_q:
                self.law.write_posterior(model)
        for each in sums.values():
            each.zero_()


def variational_em(
    model: LatentVariableModel,
    *,
    steps: Count = 20,
    learning_rate: Positive = 0.05,
    particles: Count = 4,
    draw: Mapping[str, Draw] | None = None,
    m_step: Literal["auto", "closed form", "gradient"] = "auto",
    m_steps: Count = 1,
    m_learning_rate: Positive = 1e-2,
) -> list[Phase]:
    r"""Coordinate ascent on the ELBO: the q of each row, then the parameters of p.

    .. math:: \phi_n \leftarrow \arg\max_\phi L(x_n; \theta, \phi) \quad \text{(E)}, \qquad
              \theta \leftarrow \arg\max_\theta \sum_n L(x_n; \theta, \phi_n) \quad \text{(M)}

    The raw parameters of q are :math:`f(x_n) + \delta_n`, those of a model that
    :func:`~deeplvm.inference.localised` made; the data name a row's number, ``{"x": x, "row":
    torch.arange(len(x))}``. The encoder f, as it is, says where a row starts, and only
    :math:`\delta_n` moves, from where it was the epoch before, by Adam with a rate that falls to
    zero in each E-step; with it moves what q takes from no head, such as a covariance that all
    rows share. Draws stick the landing, so that a q that is the posterior stays there without
    noise. Where q can be the posterior, this is exact EM; the more steps, the nearer.

    The M-step is in closed form for a linear Gaussian p, from the means and covariances of q, once
    an epoch; else gradient steps after each batch (incremental EM), for which a falling schedule
    pays: ``Optimization(schedule=linear(epochs, 1.0, 0.0), averaging=0.0)``.

    A View of the EM Algorithm that Justifies Incremental, Sparse, and other Variants (Neal &
    Hinton, 1998), https://doi.org/10.1007/978-94-011-5014-9_12; An Introduction to Variational
    Autoencoders (Kingma & Welling, 2019), appendix A.2.2, https://arxiv.org/abs/1906.02691

    Args:
        model: With a :class:`~deeplvm.conditionals.local.Local` table of the training rows. For
            other rows refine its own q, ``refine(model, test)``.
        steps: Gradient steps of an E-step.
        learning_rate: Of the E-step, at its start.
        particles: Draws per row and step.
        draw: How a latent is drawn; a discrete one is enumerated: ``{"y": Enumerated()}``.
        m_step: ``"closed form"``, ``"gradient"``, or the first where there is one.
        m_steps: Gradient steps of an M-step by gradient, on each batch.
        m_learning_rate: Of these, at the start.

    Raises:
        ValueError: If q has no parameters of single rows, or an option makes no sense.

    Examples:
        >>> from deeplvm import Joint
        >>> from deeplvm.conditionals import Gaussian, StandardNormal
        >>> from deeplvm.inference import localised
        >>> from deeplvm.networks import MLP
        >>> from deeplvm.training import fit
        >>> _ = torch.manual_seed(0)
        >>> p = Joint({"z": StandardNormal(1), "x | z": Gaussian(2, MLP(1, 8))})
        >>> model = LatentVariableModel(p, Joint({"z | x": Gaussian(1, MLP(2))}))
        >>> local = localised(model, rows=50)
        >>> x = torch.randn(50, 1) * torch.tensor([1.0, 0.5]) + 0.1 * torch.randn(50, 2)
        >>> data = {"x": x, "row": torch.arange(50)}
        >>> history = fit(local, data, phases=variational_em(local), epochs=20, quiet=True)
        >>> history.values()[-1] > history.values()[0]
        True
    """
    at_least(1, steps=steps, particles=particles, m_steps=m_steps)
    if m_step not in ("auto", "closed form", "gradient"):
        raise ValueError(f"m_step is 'auto', 'closed form' or 'gradient', not {m_step!r}.")
    own = Tables()
    if not any([isinstance(part, Local) for part in model.q.modules()]):
        raise ValueError(
            f"{model.q} has no parameters of single rows for an E-step to move: take "
            f"localised(model, rows=...) of deeplvm.inference, and name the rows' numbers in the "
            f"data, {{'row': torch.arange(rows)}}."
        )
    linear = None if m_step == "gradient" else linear_gaussian_of(model)
    if linear is None and m_step == "closed form":
        raise ValueError(
            f"The M-step of {model.p} has no closed form here: that is for a StandardNormal with "
            f"a Gaussian of a linear map; take m_step='gradient'."
        )
    drawn = {name: StickingTheLanding() for name in held(model)} | dict(draw or {})
    e_step = Phase(
        elbo, own, partial(Restarted, lr=learning_rate, steps=steps), repeats=steps,
        particles=particles, draw=drawn, schedule=constant(),
    )  # fmt: skip
    if linear is not None:
        return [e_step, Phase(update=ClosedForm(linear, by_q=True), parameters=of_p)]
    return [
        e_step,
        Phase(
            elbo, of_p, learning_rate=m_learning_rate, repeats=m_steps, particles=particles,
            draw=drawn,
        ),
    ]  # fmt: skip


class Tables:
    """What an E-step moves: tables of single rows, and what q takes from no head."""

    def __call__(self, model: LatentVariableModel) -> list[nn.Parameter]:
        """The parameters."""
        amortised = {each for head in heads_of(model.q) for each in head.parameters()}
        return [each for each in of_q(model) if each not in amortised]

    def prepare(
        self, model: LatentVariableModel, take: Callable[[int], Any], rows: int, missing: frozenset
    ) -> None:
        """Refuse latents that local parameters do not reach, or would reach wrongly."""
        with torch.no_grad():
            check_latents(model.q, model.evidence(take(1), missing=missing, rows=rows))


class Restarted(Adam):
    """Adam that forgets after so many steps, and whose rate falls to zero on the way there.

    Tables of rows that are not in a batch have no gradient there, and then no momentum either:
    they stay as they are.
    """

    def __init__(self, parameters: Any, *, lr: float, steps: int) -> None:
        super().__init__(parameters, lr=lr)
        self.steps = steps

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """The next step, or the first."""
        memory: Any = next(iter(self.state.values()), {"step": 0})
        done = int(memory["step"]) % self.steps
        if done == 0:
            self.state.clear()
        rates = [group["lr"] for group in self.param_groups]
        for group in self.param_groups:
            group["lr"] *= 1 - done / self.steps
        super().step(closure)
        for group, rate in zip(self.param_groups, rates, strict=True):
            group["lr"] = rate


def monte_carlo_em(
    model: LatentVariableModel,
    *,
    chains: Count = 1,
    warmup: NonNegative = 20,
    transitions: Count = 1,
    steps: Count = 5,
    learning_rate: Positive = 1e-2,
    teach: bool = True,
) -> list[Phase]:
    r"""P learns from draws of its own posterior, that Hamiltonian chains bring, one a row.

    .. math:: z_n \sim p_\theta(z | x_n) \quad \text{(E)}, \qquad
              \theta \leftarrow \theta + \alpha \nabla_\theta \tfrac1M \sum_n
              \log p_\theta(x_n, z_n) \quad \text{(M)}

    A chain goes on where it stood when its row was last seen, so that a transition or two a visit
    are enough while parameters move slowly; a schedule that falls to zero helps. No encoder is
    needed; ``teach`` lets q learn the chains' draws all the same,
    :math:`\nabla_\phi \log q_\phi(z_n | x_n)`, which descends :math:`KL(p(z|x) \| q(z|x))`, so
    that the model can be evaluated as any other. The first phase's ``evidence`` holds the chains,
    a :class:`PersistentChains`. What is ascended, :math:`\log p(x, z)`, is no bound on anything.

    An Introduction to Variational Autoencoders (Kingma & Welling, 2019), appendix A.2.3,
    https://arxiv.org/abs/1906.02691; persistent chains: Learning Deep Latent Gaussian Models with
    Markov Chain Monte Carlo (Hoffman, 2017), https://proceedings.mlr.press/v70/hoffman17a.html

    Args:
        model: Its latents are continuous.
        chains: Of each row.
        warmup: Transitions of a row's chains before the first M-step.
        transitions: Of a chain each time its row is seen.
        steps: Leapfrog steps of a transition.
        learning_rate: Of the M-step, at its start.
        teach: Whether q learns the draws; without parameters of its own it does not.

    Raises:
        ValueError: If a number is below one; in training, if a latent is discrete or shared by
            all rows.

    Examples:
        >>> from deeplvm import Joint
        >>> from deeplvm.conditionals import Gaussian, StandardNormal
        >>> from deeplvm.networks import MLP
        >>> from deeplvm.training import fit
        >>> _ = torch.manual_seed(0)
        >>> p = Joint({"z": StandardNormal(1), "x | z": Gaussian(2, MLP(1, 8))})
        >>> model = LatentVariableModel(p, Joint({"z | x": Gaussian(1, MLP(2))}))
        >>> x = torch.randn(50, 1) * torch.tensor([1.0, 0.5]) + 0.1 * torch.randn(50, 2)
        >>> phases = monte_carlo_em(model, learning_rate=0.05)
        >>> history = fit(model, {"x": x}, phases=phases, epochs=8, batch_size=10, quiet=True)
        >>> history.epochs[-1]["objective"] > history.epochs[0]["objective"]
        True
        >>> phases[0].evidence.latents(model, {"x": x[:3]})["z"].shape
        torch.Size([1, 3, 1])
    """
    at_least(1, chains=chains, transitions=transitions, steps=steps)
    at_least(0, warmup=warmup)
    own = PersistentChains(chains, int(warmup), transitions, steps)
    moved = {"learning_rate": learning_rate, "particles": chains}
    phases = [Phase(over_chains, of_p, evidence=own, **moved)]
    if teach and any([each.requires_grad for each in of_q(model)]):
        phases.append(Phase(over_chains, of_q, evidence=own.log_posterior, **moved))
    return phases


def over_chains(values: Tensor) -> Tensor:
    """The mean over the chains of a row, ``(batch,)``."""
    return values.mean(0)


class PersistentChains(nn.Module):
    """The chains of all rows, each where it stood when its row was last seen.

    Attributes:
        free: Free numbers, shape ``(chains, rows, D)``.
        step_size: Of the leapfrog, ``(rows,)``; it follows the acceptance. NaN before the first
            visit of a row.
        acceptance: Mean Metropolis probability of a row's last transition, ``(rows,)``.
    """

    free: Tensor
    step_size: Tensor
    acceptance: Tensor
    traceable = False

    def __init__(self, chains: int, warmup: int, transitions: int, steps: int) -> None:
        super().__init__()
        self.chains, self.warmup, self.transitions, self.steps = chains, warmup, transitions, steps
        for name in ("free", "step_size", "acceptance"):
            self.register_buffer(name, torch.empty(0))

    def prepare(
        self, model: LatentVariableModel, take: Callable[[int], Any], rows: int, missing: frozenset
    ) -> None:
        """Make room for the chains of so many rows."""
        self.missing = missing
        space = self._space(model, take(1))
        if not space.size:
            raise ValueError(f"{model.p} has no continuous latent to draw, given the data.")
        self.free = torch.zeros(self.chains, rows, space.size).to(space.device, space.dtype)
        self.step_size = self.free.new_full((rows,), torch.nan)
        self.acceptance = self.step_size.clone()

    def forward(
        self, model: LatentVariableModel, batch: Mapping[str, Any], *, index: Tensor
    ) -> Tensor:
        """Move the chains of some rows; log p(x, z) where they are then, ``(chains, batch)``."""
        space = self._space(model, batch)
        modes = [(each, each.training) for each in model.modules()]
        model.eval()
        with torch.no_grad():
            self.move(space, index)
        for each, mode in modes:
            each.training = mode
        return sum(space.log_joint(self.free[:, index]))  # type: ignore[return-value]

    def log_posterior(
        self, model: LatentVariableModel, batch: Mapping[str, Any], *, index: Tensor
    ) -> Tensor:
        """Log q(z | x) where the chains are, ``(chains, batch)``."""
        return self._space(model, batch).log_posterior(self.free[:, index])

    def latents(
        self, model: LatentVariableModel, given: Mapping[str, Any], first: int = 0
    ) -> dict[str, Tensor]:
        """Draws of the posterior, roughly, by name, ``(chains, rows, *event)``.

        Args:
            model: With its last parameters.
            given: Rows of the training data, from number ``first`` on.
            first: Of the rows.
        """
        space = self._space(model, given)
        with torch.no_grad():
            return space.values(self.free[:, first : first + space.rows])

    def move(self, space: LatentSpace, index: Tensor) -> None:
        """Some transitions of the chains of some rows, more where they are new."""
        if index.dim() > 1:
            raise ValueError(_NUMBERED)
        new = self.step_size[index].isnan()
        if bool(new.any()):
            start = first_of(space, self.chains)
            self.free[:, index] = torch.where(new.unsqueeze(-1), start, self.free[:, index])
            size = 0.3 / max(1.0, space.size**0.25)
            self.step_size[index] = self.step_size[index].nan_to_num(size)
        walk = Chains(space, self.free[:, index], self.steps)
        walk.size = self.step_size[index]
        probability = torch.empty(0)
        for _ in range(self.transitions + self.warmup * bool(new.any())):
            probability = walk.move(adapt=True)
        told = {
            "index": index, "free": walk.point.free.transpose(0, 1), "size": walk.size,
            "acceptance": probability.mean(0),
        }  # fmt: skip
        told = processes().gather(told)
        index = told["index"]
        self.free[:, index] = told["free"].transpose(0, 1)
        self.step_size[index], self.acceptance[index] = told["size"], told["acceptance"]

    def _space(self, model: LatentVariableModel, given: Mapping[str, Any]) -> LatentSpace:
        known = {name: value for name, value in given.items() if name in model.names}
        if not known:
            raise ValueError(_NUMBERED)
        return LatentSpace(model, known, self.missing)


_NUMBERED = "Chains are of rows that have a number each: train on one source, without Streams."
