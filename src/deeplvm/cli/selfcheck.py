"""The verb that holds an installation against exact answers."""

from __future__ import annotations

from deeplvm.cli.console import Failed, note, tell
from deeplvm.cli.options import Device, Seed


def selfcheck(*, seed: Seed = 0, device: Device = "auto", json: bool = False) -> None:
    """Hold what this installation computes against exact answers; takes a minute at most.

    Likelihoods against closed forms, sums and quadrature, densities against their integrals,
    flows against their Jacobians, gradient estimators against enumeration, a training against
    itself. The exit code is 1 if one differs.

    Args:
        seed: Of all draws; another one checks the estimates once more.
        device: What the last checks are of, beside the CPU; auto is CUDA if there is one.
        json: Print the numbers instead of the table.
    """
    from deeplvm.devices import place
    from deeplvm.diagnosis.selfcheck import selfcheck as check

    found = check(
        device=str(place(device)),
        seed=seed,
        told=lambda each: note(f"{'ok' if each.passed else 'FAILED'}: {each.what}"),
    )
    tell(found.to_json().rstrip() if json else f"{found}")
    if not found.passed:
        raise Failed(found.notes()[0])
