"""What a grammar allows next: against a stack, and by the sum over all strings."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from deeplvm import Joint, LatentVariableModel, Recurrent
from deeplvm.conditionals import Tokens
from deeplvm.distributions.temperature import tempered
from deeplvm.distributions.tokens import TokenCategorical
from deeplvm.grammar import EXPRESSIONS, Grammar
from deeplvm.networks import GRU, Derivations, Features

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


def decoder(grammar: Grammar, longest: int) -> LatentVariableModel:
    """A recurrent decoder of productions, with random weights."""
    torch.manual_seed(0)
    tokens = len(grammar) + 2
    steps = Recurrent(
        {
            "m | x[-1]": Derivations(grammar, longest=longest),
            "h | x[-1], h[-1]": GRU(4, 8),
            "x | h, m": Tokens(tokens, Features(torch.nn.Identity(), 8), features=4, masked=True),
        },
        start={"x": torch.tensor(-1), "h": 8},
        length="n",
        end={"x": 0},
    )
    with torch.no_grad():
        for weight in steps.parameters():
            weight.copy_(torch.randn_like(weight))
    return LatentVariableModel(Joint({"m, h, x, n": steps}))


def test_every_draw_is_a_string_of_the_grammar() -> None:
    grammar = Grammar(EXPRESSIONS)
    model = decoder(grammar, longest=30)
    drawn = model.sample(200)
    scored = model.evidence({"x": drawn["x"].value}).log_weight
    assert torch.allclose(scored, drawn.log_prob, rtol=1e-10)  # one pass, and steps
    assert drawn["n"].value.max() <= 31
    for row, length in zip(drawn["x"].value.tolist(), drawn["n"].value.tolist(), strict=True):
        derivation = [token - 2 for token in row[: length - 1]]
        assert row[length - 1] == 0
        assert grammar.parse(grammar.text(derivation)) == derivation


@torch.no_grad()
def test_probabilities_of_all_strings_sum_to_one() -> None:
    """And all that is no string of so many productions has probability exactly 0."""
    longest = 6
    model = decoder(TINY, longest)
    each, total, strings = torch.arange(2, len(TINY) + 2), 0.0, 0
    for size in range(1, longest + 1):  # all sequences of that many productions, and the end
        tokens = torch.cartesian_prod(*[each] * size).reshape(-1, size)
        tokens = torch.nn.functional.pad(tokens, (0, 1))
        probability = model.evidence({"x": tokens}).log_weight.exp()
        parsed = torch.tensor([_parses(row[:-1]) for row in tokens.tolist()])
        assert torch.equal(probability > 0, parsed)
        total, strings = total + probability.sum().item(), strings + int(parsed.sum())
    assert strings == 30  # counted by hand: 2 of 2 productions, 6 of 4, 22 of 6
    assert total == pytest.approx(1, abs=1e-12)


def _parses(tokens: list[int]) -> bool:
    try:
        TINY.text([token - 2 for token in tokens])
    except ValueError:
        return False
    return True


def test_no_derivation_shorter_than_the_shortest() -> None:
    with pytest.raises(ValueError, match=r"shortest derivation .* 2 productions, found longest=1"):
        Derivations(TINY, longest=1)


def test_a_temperature_keeps_what_is_forbidden_so() -> None:
    allowed = torch.tensor([[True, False, True]])
    token = TokenCategorical(torch.ones(1, 1), torch.eye(3)[:, :1], torch.zeros(3), allowed)
    hot = tempered(token, 5.0)
    assert isinstance(hot, TokenCategorical)
    assert hot.logits.exp()[0, 1] == 0
    assert hot.logits[0, 0] - hot.logits[0, 2] == pytest.approx(0.2)
