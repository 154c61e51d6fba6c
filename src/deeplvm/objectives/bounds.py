"""The evidence lower bound and the importance-weighted bound."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from deeplvm.core.evidence import Evidence, density

Form = Literal["sampled", "analytic", "entropy"]


def elbo(evidence: Evidence, form: Form = "sampled") -> Tensor:
    r"""Evidence lower bound :math:`E_q[\log p(x, z) - \log q(z | x)] \le \log p(x)`.

    Auto-Encoding Variational Bayes (Kingma & Welling, 2014), https://arxiv.org/abs/1312.6114

    Args:
        evidence: The ledger.
        form: Three estimators of the same number. ``"sampled"``: the mean of the log-weights
            (algorithm 2 of the monograph). ``"analytic"``: divergences in closed form where the
            names and the distributions allow it, the sampled term elsewhere. ``"entropy"``: the
            mean of ``log p`` plus the entropy of each latent in closed form.

    Returns:
        One bound per observation, shape ``(batch,)``. A lower bound on ``log p(x)`` in
        expectation.

    Raises:
        ValueError: If ``form="entropy"`` and an entropy has no closed form.
    """
    if form == "sampled":
        return evidence.expectation(evidence.log_weight)
    parts = evidence.observed_terms()
    for name in evidence.latents:
        if form == "analytic":
            term = -evidence.kl(name)
        elif form == "entropy":
            log_p = density(evidence.p[name])
            term = log_p * evidence.scale(name) + evidence.entropy(name)
        else:
            raise ValueError(f"form is 'sampled', 'analytic' or 'entropy', not {form!r}.")
        parts.append(evidence.weighted(name, term))
    return evidence.expectation(evidence.total(parts))


def iwae(evidence: Evidence) -> Tensor:
    r"""Importance-weighted bound :math:`\log \sum_k m_k\, p(x, z_k) / q(z_k | x)`.

    Importance Weighted Autoencoders (Burda et al., 2016), https://arxiv.org/abs/1509.00519

    Returns:
        One bound per observation, shape ``(batch,)``; tightens as particles grow, equals the
        sampled ELBO for one. A lower bound on ``log p(x)`` in expectation.
    """
    return evidence.log_expectation_exp(evidence.log_weight)


def of_one_particle(model: nn.Module) -> bool:
    """Whether only the ELBO of a model is a bound: its terms are sums of which some are drawn.

    A conditional says so by ``one_particle``. The exponential of such a sum has not the
    expectation that importance weights need.
    """
    return any([getattr(each, "one_particle", False) for each in model.modules()])


def renyi(evidence: Evidence, alpha: float = 0.5) -> Tensor:
    r"""Variational Rényi bound :math:`\frac{1}{1-\alpha} \log E_q[(p(x, z) / q(z|x))^{1-\alpha}]`.

    :math:`\log p(x)` minus the Rényi divergence of order :math:`\alpha` from q to the posterior.
    It falls with :math:`\alpha`: 1 is the ELBO (the limit), 0 the importance-weighted bound. The
    mean over the particles is inside the logarithm, which for particles of a Monte-Carlo draw
    biases the value towards the ELBO; one particle is the ELBO whatever :math:`\alpha` is.

    Rényi Divergence Variational Inference (Li & Turner, 2016), https://arxiv.org/abs/1602.02311

    Args:
        evidence: The ledger. Where all rows share a name (weights), one row's value is one of
            :func:`alpha_energy`: the Rényi bound of the data set is no sum over rows.
        alpha: Any real order; one within 1e-4 of 1 is lost in the rounding of float32, so write 1.

    Returns:
        One value per observation, shape ``(batch,)``. A lower bound on ``log p(x)`` in
        expectation for ``alpha >= 0``, with any number of particles; for ``alpha < 0`` its limit
        for many particles is an upper bound, and a few particles are neither.
    """
    if alpha == 1.0:
        return elbo(evidence)
    return evidence.log_expectation_exp((1.0 - alpha) * evidence.log_weight) / (1.0 - alpha)


def vr_max(evidence: Evidence) -> Tensor:
    r"""The particle of largest weight, :math:`\max_k \log p(x, z_k) - \log q(z_k | x)`.

    The limit of :func:`renyi` for :math:`\alpha \to -\infty` with the particles held; its gradient
    needs one particle's backward pass.

    Rényi Divergence Variational Inference (Li & Turner, 2016), https://arxiv.org/abs/1602.02311

    Returns:
        One value per observation, shape ``(batch,)``, never below :func:`~deeplvm.objectives.iwae`
        of the same particles. Not a bound on ``log p(x)``: it grows with the particles past it.
    """
    if not evidence.particle_dims:
        return evidence.log_weight
    return evidence.log_weight.amax(evidence.particle_dims)


def alpha_energy(evidence: Evidence, alpha: float = 0.5) -> Tensor:
    r"""Minus the black-box alpha energy, :math:`\frac1\alpha \log E_q[(p(x, z) / q(z|x))^\alpha]`.

    With latents of each row it is :func:`renyi` of order :math:`1 - \alpha`. For names that all
    :math:`N` rows share, such as weights :math:`w`, the tied site approximation is
    :math:`(q(w)/p(w))^{1/N}` up to a constant, and the energy is

    .. math:: -\frac{1}{\alpha} \sum_{n=1}^N \log
              E_q\left[\left(p(x_n | w)\, (p(w)/q(w))^{1/N}\right)^\alpha\right],

    which is the same function of the ledger, where the term of a shared name counts 1/N a row.
    It is then a sum of N logarithms, where the Rényi bound of the data set is one logarithm of a
    product over all rows. :math:`\alpha \to 0` is the ELBO, 1 resembles expectation propagation.

    Black-Box Alpha Divergence Minimization (Hernández-Lobato et al., 2016),
    https://arxiv.org/abs/1511.03243

    Args:
        evidence: The ledger.
        alpha: Order; 0 means the ELBO.

    Returns:
        One value per observation, shape ``(batch,)``. A lower bound on ``log p(x)`` in
        expectation for ``alpha <= 1`` where no name is shared by all rows; with shared names it
        is one for the data set at ``alpha = 0`` only, and an upper one at ``alpha = N``.
    """
    return renyi(evidence, 1.0 - alpha)
