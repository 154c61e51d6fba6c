"""Random strings of a grammar."""

from __future__ import annotations

import random

from deeplvm.grammar import EXPRESSIONS, Grammar

_TRIES = 50  # draws for one string that was not there before


def expressions(
    number: int, *, longest: int = 15, seed: int = 0, rules: str = EXPRESSIONS
) -> list[str]:
    """Different strings of a grammar, by default functions of x as ``sin(x*2)+3/x``.

    Each is a derivation in which all productions of a nonterminal are as probable, of those that
    take no more than ``longest`` productions. Grammar Variational Autoencoder (Kusner et al.,
    2017), https://arxiv.org/abs/1703.01925, has 100,000 such functions of 15 productions at most;
    these are drawn here, and not its own.

    Args:
        number: How many.
        longest: The most productions of one.
        seed: Same seed, same strings.
        rules: The grammar.

    Raises:
        ValueError: There are not so many, or they are hardly ever drawn.

    >>> expressions(3)
    ['3', '(x/3)', 'x*3/1']
    """
    grammar, rng = Grammar(rules), random.Random(seed)
    of: dict[int, list[int]] = {}
    for place, production in enumerate(grammar.productions):
        of.setdefault(production.left, []).append(place)
    found: dict[str, None] = {}
    tries = 0
    while len(found) < number:
        tries += 1
        if tries > 1_000 + _TRIES * number:
            raise ValueError(
                f"{tries:,} draws of at most {longest} productions gave {len(found):,} different "
                f"strings, and {number:,} are wanted; ask for fewer, or for a larger longest."
            )
        waiting, derivation = [0], list[int]()
        while waiting and len(derivation) + len(waiting) <= longest:
            derivation.append(rng.choice(of[waiting.pop()]))
            waiting += grammar.productions[derivation[-1]].below[::-1]
        if not waiting:
            found[grammar.text(derivation)] = None
    return list(found)
