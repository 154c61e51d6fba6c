"""The evidence lower bound and the importance-weighted bound."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from deeplvm.evidence import Evidence, density

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
    parts = [evidence.terms[name] for name in evidence.observed]
    for name in evidence.latents:
        if form == "analytic":
            term = -evidence.divergence(name)
        elif form == "entropy":
            log_p = density(evidence.p[name])
            scale = evidence.row_weight if name in evidence.shared else 1.0
            term = log_p * scale + evidence.entropy(name)
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
