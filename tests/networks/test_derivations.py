"""What a grammar allows next: against a stack, and by the sum over all strings."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from deeplvm.grammar import EXPRESSIONS, Grammar
from deeplvm.networks import Derivations

TINY = Grammar("S -> S '+' T | T    T -> 'x' | '(' S ')' | '1'")


def by_a_stack(allowed: Derivations, tokens: list[int]) -> Tensor:
    """The masks of one derivation, a step at a time."""
    grammar, waiting, masks = allowed.grammar, [0], []
    for step, token in enumerate(tokens):
        mask = torch.zeros(allowed.tokens, dtype=torch.bool)
        mask[0] = not waiting
        if waiting:
            left = waiting.pop()
            for number, production in enumerate(grammar.productions):
                rest = sum([grammar.least[name] for name in (*waiting, *production.below)])
                short = allowed.longest is None or step + 1 + rest <= allowed.longest
                mask[number + 2] = production.left == left and short
        masks.append(mask)
        if token > 1:
            waiting += grammar.productions[token - 2].below[::-1]
    return torch.stack(masks)


def masks(allowed: Derivations, tokens: Tensor) -> Tensor:
    """What is allowed at each step, in one pass."""
    return allowed(torch.nn.functional.pad(tokens, (1, -1), value=-1))


def draws(allowed: Derivations, rows: int, steps: int) -> tuple[Tensor, Tensor]:
    """Derivations drawn a token at a time, each allowed one as probable as another; masks."""
    tokens, memory, seen = [torch.full((rows,), -1)], dict[str, Tensor](), []
    for _ in range(steps):
        seen.append(allowed.next_step(memory, tokens[-1]))
        tokens.append(torch.multinomial(seen[-1].double(), 1).squeeze(-1))
    return torch.stack(tokens[1:], 1), torch.stack(seen, 1)


@pytest.mark.parametrize("longest", [None, 15])
@pytest.mark.parametrize("rules", [TINY.source, EXPRESSIONS])
def test_masks_are_those_of_a_stack(rules: str, longest: int | None) -> None:
    torch.manual_seed(0)
    allowed = Derivations(Grammar(rules), longest=longest)
    tokens, seen = draws(allowed, 40, 20)
    assert torch.equal(seen, masks(allowed, tokens))
    assert torch.equal(seen, torch.stack([by_a_stack(allowed, t) for t in tokens.tolist()]))


def test_every_draw_is_a_string_of_the_grammar() -> None:
    torch.manual_seed(0)
    grammar = Grammar(EXPRESSIONS)
    tokens, _ = draws(Derivations(grammar, longest=30), 200, 31)
    assert (tokens[:, -1] == 0).all()
    for row in tokens.tolist():
        derivation = [token - 2 for token in row[: row.index(0)]]
        assert grammar.parse(grammar.text(derivation)) == derivation


def test_probabilities_of_all_strings_sum_to_one() -> None:
    """Under any logits that read what came before; all else has probability exactly 0."""
    torch.manual_seed(0)
    longest = 6
    allowed = Derivations(TINY, longest=longest)
    weights = torch.randn(longest + 1, allowed.tokens, allowed.tokens, dtype=torch.float64)

    def log_prob(tokens: Tensor) -> Tensor:
        seen = torch.nn.functional.one_hot(tokens, allowed.tokens).double().cumsum(1)
        before = torch.nn.functional.pad(seen, (0, 0, 1, -1))
        logits = torch.einsum("bti,tij->btj", before, weights[: tokens.shape[1]]) + weights[0, 0]
        logits = logits.masked_fill(~masks(allowed, tokens), -math.inf)
        return logits.log_softmax(-1).gather(-1, tokens[..., None]).sum((-1, -2))

    each = torch.arange(2, allowed.tokens)
    total, strings = torch.zeros((), dtype=torch.float64), 0
    for size in range(1, longest + 1):  # all sequences of that many productions
        tokens = torch.nn.functional.pad(
            torch.cartesian_prod(*[each] * size).reshape(-1, size), (0, 1)
        )
        probability = log_prob(tokens).exp()
        parsed = torch.tensor([_parses(row[:-1]) for row in tokens.tolist()])
        assert torch.equal(probability > 0, parsed)
        total, strings = total + probability.sum(), strings + int(parsed.sum())
    assert strings == 30  # counted by hand: 2 of 2 productions, 6 of 4, 22 of 6
    assert total.item() == pytest.approx(1, abs=1e-12)


def _parses(tokens: list[int]) -> bool:
    try:
        TINY.text([token - 2 for token in tokens])
    except ValueError:
        return False
    return True


def test_no_derivation_shorter_than_the_shortest() -> None:
    with pytest.raises(ValueError, match=r"shortest derivation .* 2 productions, found longest=1"):
        Derivations(TINY, longest=1)
