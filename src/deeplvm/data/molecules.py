"""Molecules as strings: their tokens, and what rdkit and selfies know of them.

Both are extras, ``pip install "deeplvm[molecules]"``; without them SMILES are strings.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import re
from collections.abc import Sequence
from typing import Any

from deeplvm.data.variable import DataError

# An atom in brackets, a ring of two digits and a symbol of two letters are one token.
_TOKEN = re.compile(r"\[[^\]]*\]|%\d\d|Br|Cl|.", re.DOTALL)


def smiles_tokens(text: str) -> list[str]:
    """The tokens of SMILES.

    >>> smiles_tokens("C[C@@H](Cl)Br")
    ['C', '[C@@H]', '(', 'Cl', ')', 'Br']
    """
    return _TOKEN.findall(text)


def selfies_tokens(smiles: str) -> list[str]:
    """The tokens of the SELFIES of a molecule that is given as SMILES.

    Self-referencing embedded strings (SELFIES): A 100% robust molecular string representation
    (Krenn et al., 2020), https://arxiv.org/abs/1905.13741

    Raises:
        DataError: The extra is not installed, or it is no molecule that SELFIES has.
    """
    selfies = _extra("selfies", "SELFIES are read")
    try:
        return list(selfies.split_selfies(selfies.encoder(smiles)))
    except selfies.EncoderError as problem:
        reason = str(problem).strip().split("\n")[0]
        raise DataError(f"{smiles!r} has no SELFIES: {reason}") from None


def smiles_of_selfies(tokens: str) -> str:
    """The SMILES of SELFIES: those of some molecule, whatever the tokens are.

    Raises:
        DataError: The extra is not installed.
    """
    selfies = _extra("selfies", "SELFIES are read")
    try:
        return selfies.decoder(tokens)
    except selfies.DecoderError:  # a token that is none of SELFIES
        return ""


def has_rdkit() -> bool:
    """Whether molecules can be read."""
    return importlib.util.find_spec("rdkit") is not None


def canonical(smiles: str) -> str | None:
    """The one way in which rdkit writes a molecule; ``None`` where it is none.

    A molecule has at least one atom, closed rings, and valences that exist.

    Raises:
        DataError: The extra is not installed.
    """
    molecule = _molecule(smiles)
    return None if molecule is None else _extra("rdkit.Chem").MolToSmiles(molecule)


def properties(smiles: str) -> dict[str, float]:
    """``qed``, how drug-like it is in (0, 1), and ``logp``, how it likes fat better than water.

    Quantifying the chemical beauty of drugs (Bickerton et al., 2012),
    https://doi.org/10.1038/nchem.1243; Prediction of Physicochemical Parameters by Atomic
    Contributions (Wildman & Crippen, 1999), https://doi.org/10.1021/ci990307l

    Raises:
        DataError: The extra is not installed, or it is no molecule.
    """
    molecule = _molecule(smiles)
    if molecule is None:
        raise DataError(f"{smiles!r} is no molecule, so it has no QED and no logP.")
    qed, crippen = _extra("rdkit.Chem.QED"), _extra("rdkit.Chem.Crippen")
    return {"qed": qed.qed(molecule), "logp": crippen.MolLogP(molecule)}


def drawing(smiles: str, width: int = 220, height: int = 160) -> str | None:
    """A molecule as an SVG element; ``None`` where it is none.

    Raises:
        DataError: The extra is not installed.
    """
    molecule = _molecule(smiles)
    if molecule is None:
        return None
    canvas = _extra("rdkit.Chem.Draw.rdMolDraw2D").MolDraw2DSVG(width, height)
    canvas.DrawMolecule(molecule)
    canvas.FinishDrawing()
    return canvas.GetDrawingText().partition("?>")[2].strip()


def drawings(
    smiles: Sequence[str], columns: int = 4, width: int = 260, height: int = 200
) -> bytes:
    """Molecules side by side, each above its SMILES, as a picture (PNG); none where it is none.

    Raises:
        DataError: The extra is not installed.
    """
    columns, chem = min(columns, len(smiles)), _extra("rdkit.Chem")
    size = columns * width, math.ceil(len(smiles) / columns) * height
    canvas = _extra("rdkit.Chem.Draw.rdMolDraw2D").MolDraw2DCairo(*size, width, height)
    molecules = [_molecule(each) or chem.Mol() for each in smiles]
    canvas.DrawMolecules(molecules, legends=[*smiles])
    canvas.FinishDrawing()
    return canvas.GetDrawingText()


def _molecule(smiles: str) -> Any:
    chem = _extra("rdkit.Chem")
    with _extra("rdkit.rdBase").BlockLogs():  # it writes a line to stderr for each that is none
        molecule = chem.MolFromSmiles(smiles)
    return molecule if molecule is not None and molecule.GetNumAtoms() else None


def _extra(name: str, what: str = "molecules are read") -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        package = name.partition(".")[0]
        raise DataError(
            f'{what} with {package}, which is not installed: pip install "deeplvm[molecules]".'
        ) from None
