"""What a grammar allows next in a derivation, by the stack of what is still to be replaced."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from deeplvm.grammar import Grammar


class Derivations(nn.Module):
    r"""Which tokens may come next, given those before: a mask that depends on nothing learned.

    A deterministic node ``"m | x[-1]"`` of a :class:`~deeplvm.Recurrent`, whose start of x stands
    for nothing (−1); a :class:`~deeplvm.networks.OverSteps`.

    Tokens are the end (0), an unknown one (1, never allowed), and from 2 on the productions of a
    grammar. A derivation replaces the first nonterminal that is left, so only productions of that
    one are allowed; where none is left, only the end is. With a categorical of logits
    :math:`\eta`, :math:`p_k \propto m_k e^{\eta_k}`, all else has probability exactly 0, and every
    draw is a string of the grammar.

    The nonterminals that are left are a stack. It needs no steps: what stands at its height h was
    written there by the last production that reached it.

    Args:
        grammar: Whose productions the tokens are.
        longest: The most productions of a derivation; one that could not end in time is not
            allowed either. No limit if left out.

    Raises:
        ValueError: No derivation is so short.

    Grammar Variational Autoencoder (Kusner et al., 2017), https://arxiv.org/abs/1703.01925

    >>> grammar = Grammar("S -> S '+' T | T    T -> 'x' | '1'")
    >>> allowed = Derivations(grammar, longest=4)
    >>> allowed(torch.tensor([-1, 2, 3, 4, 5])).int()  # nothing yet; then S, S, T, T
    tensor([[0, 0, 1, 1, 0, 0],
            [0, 0, 0, 1, 0, 0],
            [0, 0, 0, 0, 1, 1],
            [0, 0, 0, 0, 1, 1],
            [1, 0, 0, 0, 0, 0]], dtype=torch.int32)
    """

    accepts_missing = True  # tokens as they are, not as their conditional shows them
    left: Tensor
    below: Tensor
    adds: Tensor
    needs: Tensor

    def __init__(self, grammar: Grammar, *, longest: int | None = None) -> None:
        super().__init__()
        self.grammar, self.longest = grammar, longest
        self.least = grammar.least[0]
        if longest is not None and longest < self.least:
            raise ValueError(
                f"The shortest derivation of {grammar} has {self.least} productions, found "
                f"longest={longest}."
            )
        none, productions = len(grammar.names), grammar.productions
        most = max([1, *[len(production.below) for production in productions]])
        below = [[none] * most] * 2 + [
            [*p.below, *[none] * (most - len(p.below))] for p in productions
        ]
        cost = [
            sum([grammar.least[n] for n in p.below]) - grammar.least[p.left] for p in productions
        ]
        # the end and the unknown token replace nothing, and leave the stack as it is
        tables = {
            "left": [none, none + 1] + [p.left for p in productions],
            "below": below,
            "adds": [0, 0] + [len(p.below) - 1 for p in productions],
            "needs": [-1, 0, *cost],
        }
        for name, table in tables.items():
            self.register_buffer(name, torch.tensor(table), persistent=False)

    @property
    def tokens(self) -> int:
        """How many there are: the productions, the end, and the unknown one."""
        return len(self.left)

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Of a mask."""
        return (self.tokens,)

    def forward(self, before: Tensor) -> Tensor:
        """What is allowed at each step, ``(*lead, steps, tokens)``.

        Args:
            before: The token before each step, ``(*lead, steps)``, whatever stands at the first.
        """
        return self._allowed(self._known(before)[..., 1:], slice(None))

    def next_step(self, memory: dict[str, Tensor], /, before: Tensor) -> Tensor:
        """What is allowed at the next step, ``(*lead, tokens)``; all tokens are remembered."""
        token = self._known(before).unsqueeze(-1)
        known = [memory["tokens"], token] if memory else [token[..., :0]]
        memory["tokens"] = torch.cat(known, -1)
        return self._allowed(memory["tokens"], slice(-1, None)).squeeze(-2)

    def _known(self, tokens: Tensor) -> Tensor:
        """Whole numbers, 0 for what stands for nothing (−1, NaN): it leaves all as it is."""
        return torch.nan_to_num(tokens, nan=0.0).long().clamp(min=0)

    def _allowed(self, tokens: Tensor, steps: slice) -> Tensor:
        heights = pad(self.adds[tokens].cumsum(-1), (1, 0), value=0) + 1  # before each, after all
        here = heights[..., steps]  # (*batch, asked)
        bottom, top = heights[..., :-1], heights[..., :-1] + self.adds[tokens]
        place = torch.arange(tokens.shape[-1], device=tokens.device)
        asked = torch.arange(heights.shape[-1], device=tokens.device)[steps, None]
        at = here[..., None]
        wrote = (bottom[..., None, :] <= at) & (at <= top[..., None, :]) & (place < asked)
        writer = torch.where(wrote & (tokens > 1)[..., None, :], place + 1, 0)
        writer = pad(writer, (1, 0)).amax(-1)  # the last that reached this height; 0 is the start
        child = pad(top, (1, 0), value=1).gather(-1, writer) - here  # counted from the first
        row = self.below[pad(tokens, (1, 0)).gather(-1, writer)]
        first = row.gather(-1, child.clamp(0, row.shape[-1] - 1)[..., None]).squeeze(-1)
        first = torch.where(writer == 0, 0, first)
        first = torch.where(here < 1, self.left[0], first)  # nothing is left
        allowed = first[..., None] == self.left
        if self.longest is not None:
            done, need = (
                pad(n.cumsum(-1), (1, 0))[..., steps] for n in (tokens > 1, self.needs[tokens])
            )
            allowed &= self.needs < (self.longest - self.least - done - need)[..., None]
        # what came before has probability 0 already; here is some distribution
        allowed[..., 0] |= ~allowed.any(-1)
        return allowed
