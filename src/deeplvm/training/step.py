"""A phase bound to a model: one call is one ascent of the mean objective of a batch."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import SGD, Optimizer

from deeplvm.core.draws import is_estimator
from deeplvm.core.evidence import Evidence
from deeplvm.core.model import LatentVariableModel
from deeplvm.gradients import Suited
from deeplvm.parallel.statistics import refuse_batch_norm
from deeplvm.parallel.steps import Part, Together
from deeplvm.randomness import generator_of
from deeplvm.training.batches import Balance
from deeplvm.training.graph import Graph
from deeplvm.training.options import make_optimizer
from deeplvm.training.phases import Phase, asked


class Step:
    """A phase bound to a model: one call is one ascent of the mean objective of a batch.

    Args:
        model: The model.
        phase: With nothing left at ``None`` but parameters, particles, draw and evidence.
        rows: Rows of the training data, N.
        missing: Names with NaN elements.
        log_prior: Log-density of the parameters; counts 1/N per row.
        clip: Largest norm of the gradient; a longer one is shortened.
        skip: A gradient longer than this is not followed.
        batch_size: Rows of a full batch (of this process): the only ones that are computed by
            compiled code, as an odd last one would compile again.
        alone: Whether no other phase moves parameters, so that ``backward`` need not be told
            which.
        bfloat16: Whether matrix products and convolutions are computed in bfloat16; log-densities
            and sums are not.
        together: The processes that share each batch; none where there is one.
        balance: What rows with and without a label count, where these are not as many in a batch
            as in the data; a phase with evidence of its own takes them as they come.
    """

    def __init__(
        self,
        model: LatentVariableModel,
        phase: Phase,
        *,
        rows: int,
        missing: frozenset[str],
        log_prior: Callable[[LatentVariableModel], Tensor] | None,
        clip: float | None,
        skip: float | None,
        batch_size: int,
        alone: bool,
        bfloat16: bool = False,
        together: Together | None = None,
        balance: Balance | None = None,
    ) -> None:
        chosen = model.parameters() if phase.parameters is None else phase.parameters(model)
        own = parameters_of(phase.objective, *phase.ways)
        # A parameter reached by two names is moved once.
        parameters = list(dict.fromkeys([p for p in [*chosen, *own] if p.requires_grad]))
        self.credited = any([is_estimator(way) for way in phase.ways])
        self.default = None if phase.estimator is None else Suited(phase.estimator)
        self.beside = [
            each for each in (phase.objective, *phase.ways) if isinstance(each, nn.Module)
        ]
        if not parameters:
            raise ValueError(
                "There is nothing to learn: no parameter of this phase requires a gradient."
            )
        self.optimizer: Optimizer
        if phase.update is not None:
            self.optimizer = SGD(parameters, lr=0.0)  # never stepped
        elif phase.objective is None or phase.optimizer is None:
            raise ValueError("A phase needs an objective and an optimiser.")
        else:
            self.optimizer = make_optimizer(
                phase.optimizer,
                parameters,
                1e-3 if phase.learning_rate is None else phase.learning_rate,
                phase.weight_decay or 0.0,
            )
        # A function that makes the optimiser may have left some out, or added others.
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        asks = inspect.signature(type(self.optimizer).step).parameters.get("closure")
        self.asks_again = asks is not None and asks.default is asks.empty
        if self.asks_again and skip is not None:
            raise ValueError(
                f"{type(self.optimizer).__name__} looks at several gradients in one step, so none "
                f"of them can be skipped; leave out skip."
            )
        self.rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        every = alone and phase.parameters is None and set(self.parameters) == set(parameters)
        self.inputs = None if every else self.parameters
        self.model, self.phase, self.rows, self.missing = model, phase, rows, missing
        self.objective: Any = phase.objective
        self.asks = {"kl_weight", "index"} & asked(phase.evidence)
        self.log_prior, self.clip, self.skip = log_prior, clip, skip
        self.batch_size, self.balance = batch_size, balance
        if together is not None:
            refuse_batch_norm(model)
        self.together = together
        self.device = self.parameters[0].device.type
        self.bfloat16 = bfloat16
        self.compiled: Callable[..., Tensor] | None = None  # the value of a full batch
        self.graph: Graph | None = None  # or its whole ascent
        self.evidence: Any = None  # of a step whose objective was not finite
        self.skipped = 0

    def compile(self, *, whole: bool = False) -> None:
        """From now on full batches are computed by ``torch.compile(fullgraph=True)``.

        On a GPU its kernels, there and back, are captured in a CUDA graph and replayed.

        Args:
            whole: Compile the ascent with the optimiser in it, where :meth:`Graph.suits`.
        """
        self.compiled = self.graph = None
        if whole and Graph.suits(self):
            self.graph = Graph(self)
            return
        mode = "reduce-overhead" if self.device == "cuda" else None
        self.compiled = torch.compile(self._value, fullgraph=True, dynamic=False, mode=mode)

    def mean(
        self, batch: dict[str, Any], kl_weight: Tensor | float, index: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        r""":math:`\frac1M \sum_i L(x_i) + \frac1N \log p(\theta)`, and the evidence for it.

        A mean per row is the N/M-scaled sum over the minibatch (monograph, eq. 1.11) divided by N:
        in expectation over minibatches its gradient is that of the whole data set's mean.

        Raises:
            ValueError: If a log-density is computed in bfloat16.
        """
        if not self.bfloat16:
            return self._mean(batch, kl_weight, index)
        with torch.autocast(self.device, torch.bfloat16):
            value, evidence = self._mean(batch, kl_weight, index)
        if isinstance(evidence, Evidence):
            for name, term in evidence.terms.items():
                if term.dtype == torch.bfloat16:
                    raise ValueError(
                        f"The log-density of {name!r} is computed in bfloat16, which has three "
                        f"digits: let its conditional make the distribution from float32 (the "
                        f"network's output.float()), or use precision='float32'."
                    )
        return value, evidence

    @torch.no_grad()
    def ledger(self, batch: dict[str, Any], part: Part) -> Any:
        """The evidence drawn again, for a look at its terms, where the phase has some."""
        return None if self.phase.update else self.mean(batch, 1.0, part.index)[1]

    def _mean(
        self, batch: dict[str, Any], kl_weight: Tensor | float, index: Tensor | None
    ) -> tuple[Tensor, Any]:
        phase, evidence = self.phase, None
        weighs = not (isinstance(kl_weight, float) and kl_weight == 1.0)
        options: dict[str, Any] = {
            "particles": phase.particles,
            "draw": phase.draw,
            "default": self.default,
            "missing": self.missing,
            "rows": self.rows,
        }
        if phase.stream is not None:
            batch = batch[phase.stream]
        if phase.evidence is not None:
            told = {"kl_weight": kl_weight, "index": index}
            evidence = phase.evidence(
                self.model, batch, **{name: told[name] for name in self.asks}
            )
            if weighs and "kl_weight" not in self.asks:
                evidence = self._weighed(evidence, kl_weight)
        elif self.credited:
            values, evidence = self.model.estimate(
                self.objective, batch, kl_weight=kl_weight, **options
            )
            return self._with_prior(self._averaged(values, evidence)), evidence
        else:
            evidence = self.model.evidence(batch, **options)
            evidence = evidence.temper(kl_weight) if weighs else evidence
        return self._with_prior(self._averaged(self.objective(evidence), evidence)), evidence

    def _averaged(self, values: Tensor, evidence: Any) -> Tensor:
        if self.balance is not None and self.phase.evidence is None:
            values = values * self.balance.weights(evidence)
        return values.mean()

    def _weighed(self, evidence: Any, kl_weight: Tensor | float) -> Any:
        """What a phase's own function returned, with the KL weight in its ledgers."""
        weighed = tempered(evidence, kl_weight)
        if weighed is evidence:
            raise ValueError(
                f"kl_weight has nothing to weigh in a phase with evidence of its own: that "
                f"function returns {type(evidence).__name__} without a ledger. Let it take an "
                f"argument kl_weight and use it as it should, or leave out kl_weight."
            )
        return weighed

    def _with_prior(self, value: Tensor) -> Tensor:
        if self.log_prior is None:
            return value
        return value + self.log_prior(self.model) / self.rows

    def _value(self, batch: dict[str, Any], kl_weight: Tensor | float) -> Tensor:
        return self.mean(batch, kl_weight)[0]

    def gradient(
        self, batch: dict[str, Any], part: Part, kl_weight: Tensor | float
    ) -> Tensor | float:
        """Leave the gradient of the loss in the parameters.

        Args:
            batch: The rows of this process.
            part: Which of the whole batch these are; the gradient is of their share of its mean.
            kl_weight: Weight of the latents' terms.

        Returns:
            The mean objective of these rows, on a CPU as a number; where that is not finite, and
            there is one process, there is no gradient.
        """
        if self.together is None:
            return self._gradient(batch, part, kl_weight)
        with self.together.noise(part, self.phase.particles):
            return self._gradient(batch, part, kl_weight)

    def _gradient(
        self, batch: dict[str, Any], part: Part, kl_weight: Tensor | float
    ) -> Tensor | float:
        if self.phase.update is not None:
            return self._updated(self.phase.update, batch, part)
        evidence = None
        if self.compiled is not None and len(part.index) == self.batch_size:
            value = self.compiled(batch, kl_weight)
        else:
            value, evidence = self.mean(batch, kl_weight, part.index)
        result: Tensor | float
        if self.device == "cpu":
            result = value.item()
            if not math.isfinite(result) and self.together is None:
                self.evidence = evidence
                return result
        else:  # a replayed graph writes its result to the same place every time
            result = value.detach().clone()
        del evidence  # its memory is what the backward pass needs next
        for parameter in self.parameters:
            parameter.grad = None
        (value.neg() if part.share == 1.0 else value * -part.share).backward(inputs=self.inputs)
        return result

    @torch.no_grad()
    def _updated(
        self, update: Callable[..., Tensor], batch: dict[str, Any], part: Part
    ) -> Tensor | float:
        """Let the phase's own function move the parameters."""
        batch = batch if self.phase.stream is None else batch[self.phase.stream]
        value = update(self.model, batch, part.share).mean()
        return value.item() if self.device == "cpu" else value

    def __call__(
        self, batch: dict[str, Any], part: Part, kl_weight: Tensor | float
    ) -> Tensor | float:
        """Ascend; the mean objective of the whole batch, on a CPU as a number.

        Where that number is not finite, nothing has moved.
        """
        if self.asks_again:
            return self._asked(batch, part, kl_weight)
        if self.graph is not None and len(part.index) == self.batch_size:
            value, taken = self.graph(batch, kl_weight)
            self.skipped += math.isfinite(value) and not taken
            return value
        result = self._summed(batch, part, kl_weight)
        moved = self.phase.update is not None
        if moved or (isinstance(result, float) and not math.isfinite(result)):
            return result
        if self._bounded():
            self.optimizer.step()
        else:
            self.skipped += 1
        return result

    def _bounded(self) -> bool:
        """Shorten a gradient that is too long; whether it is to be followed at all."""
        if self.clip is None and self.skip is None:
            return True
        norm = get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        if self.skip is not None and not norm <= self.skip:
            return False
        if self.clip is not None:
            clip_grads_with_norm_(self.parameters, self.clip, norm)
        return True

    def _summed(
        self, batch: dict[str, Any], part: Part, kl_weight: Tensor | float
    ) -> Tensor | float:
        """Value and gradient of the whole batch, of which others may have parts."""
        result = self.gradient(batch, part, kl_weight)
        if self.together is None:
            return result
        own = torch.as_tensor(result, dtype=self.parameters[0].dtype)
        # a stand-in's value counts nothing, even if it is infinite
        own = own * part.share if part.share else torch.zeros_like(own)
        summed = self.together.sum_gradients(self.parameters, own)
        return summed.item() if self.device == "cpu" else summed

    def _asked(
        self, batch: dict[str, Any], part: Part, kl_weight: Tensor | float
    ) -> Tensor | float:
        """A step of an optimiser that asks for value and gradient as often as it wants.

        It compares them, so each time the draws are the same.
        """
        device = self.parameters[0].device
        generators = {generator_of(each) for each in (torch.device("cpu"), device)}
        before = [(each, each.get_state()) for each in generators]
        values: list[Tensor | float] = []

        def closure() -> Tensor | float:
            for generator, state in before:
                generator.set_state(state)
            values.append(self._summed(batch, part, kl_weight))
            self._bounded()
            return -values[-1]

        self.optimizer.step(closure)  # type: ignore[arg-type]
        return values[0]


def parameters_of(*candidates: Any) -> list[nn.Parameter]:
    """The parameters that those of them learn which are modules."""
    modules = [each for each in candidates if isinstance(each, nn.Module)]
    return [p for module in modules for p in module.parameters() if p.requires_grad]


def tempered(found: Any, kl_weight: Tensor | float) -> Any:
    """Whatever a phase reads, with the KL weight in its ledgers; the same where there are none."""
    if isinstance(found, Evidence):
        return found.temper(kl_weight)
    if not isinstance(found, Mapping | list | tuple):
        return found
    parts = [*found.values()] if isinstance(found, Mapping) else [*found]
    weighed = [tempered(each, kl_weight) for each in parts]
    if all([one is other for one, other in zip(weighed, parts, strict=True)]):
        return found
    if isinstance(found, Mapping):
        return dict(zip(found, weighed, strict=True))
    return type(found)(*weighed) if hasattr(found, "_fields") else type(found)(weighed)
