"""Every recipe obeys the same laws, whatever its data."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from deeplvm import recipes
from deeplvm.conditionals import BagOfWords
from deeplvm.core.joint import Joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.core.trace import Site
from deeplvm.data import Data, Description, likelihood_of, load
from deeplvm.export.functions import ExportError
from deeplvm.export.programs import AGREEMENT, Form, Part, write
from deeplvm.gradients import Suited
from deeplvm.gradients.score_function import LeaveOneOut, ScoreFunction
from deeplvm.objectives import auxiliary_elbo, elbo, free_bits, iwae
from deeplvm.recipes import RecipeError, describe, find, published, training_of
from deeplvm.runs.run import Config, Run, build
from deeplvm.training import fit, unfolded
from deeplvm.training.measure import filled_in
from long_form import FULL

SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "vae": ("vae", {"latent": 2, "hidden": (8, 6)}),
    "vae, vamp": ("vae", {"latent": 2, "hidden": (8,), "prior": "vamp(components=4)"}),
    "vae, flow prior": ("vae", {"latent": 2, "hidden": (8,), "prior": "maf(hidden=(8,))"}),
    "full_covariance_vae": ("full_covariance_vae", {"latent": 3, "hidden": (8,)}),
    "convolutional_vae": ("convolutional_vae", {"latent": 2, "channels": (4, 4), "features": 8}),
    "convolutional_ladder_vae": (
        "convolutional_ladder_vae",
        {"layers": 2, "latent": 2, "channels": 4, "blocks": 1},
    ),
    "convolutional_ladder_vae, ladder": (
        "convolutional_ladder_vae",
        {"layers": 2, "latent": 2, "channels": 4, "blocks": 1, "inference": "ladder"},
    ),
    "convolutional_ladder_vae, bottom up": (
        "convolutional_ladder_vae",
        {"layers": 2, "latent": 2, "channels": 4, "blocks": 1, "inference": "bottom_up"},
    ),
    "resnet_iaf_vae": (
        "resnet_iaf_vae",
        {"layers": 2, "latent": 2, "channels": 4, "posterior": "iaf(transforms=1, hidden=(4,))"},
    ),
    "biva": ("biva", {"layers": 2, "latent": 2, "channels": 4}),
    "very_deep_vae": ("very_deep_vae", {"layers": 4, "latent": 2, "channels": 4, "width": 2}),
    "ladder_vae": ("ladder_vae", {"latent": (4, 2), "hidden": (8, 6)}),
    "ladder_vae, bottom up": (
        "ladder_vae",
        {"latent": (4, 2), "hidden": (8, 6), "inference": "bottom_up", "batch_norm": False},
    ),
    "deep_latent_gaussian_model": ("deep_latent_gaussian_model", {"latent": 2, "hidden": 8}),
    "vae, given the label": ("vae", {"latent": 2, "hidden": (8, 6), "given_label": True}),
    "iwae, one layer": ("iwae", {"latent": 2, "hidden": 8}),
    "iwae, two layers": ("iwae", {"latent": 2, "hidden": 8, "layers": 2}),
    "conditional_vae": ("conditional_vae", {"latent": 2, "hidden": (8,)}),
    "voice_conversion": ("voice_conversion", {"latent": 2, "hidden": (8,)}),
    "conditional_vae, deep": ("conditional_vae", {"latent": 2, "hidden": (8, 6)}),
    "auxiliary_vae": ("auxiliary_vae", {"latent": 2, "auxiliary": 3, "hidden": (8, 6)}),
    "hierarchical_variational_vae": (
        "hierarchical_variational_vae",
        {"latent": 2, "hidden": (8, 6)},
    ),
    "hamiltonian_vae": ("hamiltonian_vae", {"latent": 2, "hidden": (8, 6), "steps": 2}),
    "variational_gaussian_process": (
        "variational_gaussian_process",
        {"latent": 2, "inputs": 2, "points": 3, "hidden": (8, 6)},
    ),
    "normalizing_flow_vae": (
        "normalizing_flow_vae",
        {"latent": 2, "hidden": (8, 6), "transforms": 2},
    ),
    "normalizing_flow_vae, radial": (
        "normalizing_flow_vae",
        {"latent": 2, "hidden": (8, 6), "transforms": 2, "kind": "radial"},
    ),
    "inverse_autoregressive_flow_vae": (
        "inverse_autoregressive_flow_vae",
        {"latent": 2, "hidden": (8, 6), "widths": (6,)},
    ),
    "sentence_vae": ("sentence_vae", {"latent": 2, "features": 3, "hidden": 4, "keep": 0.5}),
    "sentence_vae, all words": (
        "sentence_vae",
        {"latent": 2, "features": 3, "hidden": 4, "keep": 1.0, "cell": "gru"},
    ),
    "recurrent_language_model": ("recurrent_language_model", {"features": 3, "hidden": 4}),
    "smiles_vae": (
        "smiles_vae",
        {"latent": 2, "features": 3, "channels": (4,), "hidden": 5, "posterior": "iaf"},
    ),
    "grammar_vae": ("grammar_vae", {"latent": 2, "features": 3, "channels": (4,), "hidden": 5}),
    "selfies_vae": ("selfies_vae", {"latent": 2, "features": 3, "channels": (4,), "hidden": 5}),
    "dilated_text_vae": (
        "dilated_text_vae",
        {"latent": 2, "features": 3, "width": 8, "dilations": (1, 2), "hidden": 4},
    ),
    "hybrid_text_vae": (
        "hybrid_text_vae",
        {"latent": 2, "features": 3, "channels": (4, 4), "hidden": 4, "longest": 8},
    ),
    "semi_supervised_text": ("semi_supervised_text", {"latent": 2, "features": 3, "hidden": 4}),
    "controllable_text_vae": ("controllable_text_vae", {"latent": 2, "features": 3, "hidden": 4}),
    "vhred": ("vhred", {"latent": 2, "features": 3, "state": 4, "hidden": (6,), "keep": 0.9}),
    "dialogue_cvae": ("dialogue_cvae", {"latent": 2, "features": 3, "state": 4, "hidden": (6,)}),
    "answer_selection": (
        "answer_selection",
        {"latent": 2, "features": 3, "state": 4, "hidden": (6,)},
    ),
    "sylvester_vae": ("sylvester_vae", {"latent": 3, "hidden": (8, 6), "transforms": 1}),
    "householder_flow_vae": (
        "householder_flow_vae",
        {"latent": 2, "hidden": (8, 6), "transforms": 2},
    ),
    "beta_vae": ("beta_vae", {"latent": 2, "hidden": (8, 6)}),
    "beta_tc_vae": ("beta_tc_vae", {"latent": 2, "hidden": (8, 6)}),
    "renyi_vae": ("renyi_vae", {"latent": 2, "hidden": (8, 6)}),
    "sigmoid_belief_network": ("sigmoid_belief_network", {"units": (5,)}),
    "sigmoid_belief_network, deep": ("sigmoid_belief_network", {"units": (5, 3)}),
    "gumbel_softmax_vae": (
        "gumbel_softmax_vae",
        {"categories": 2, "classes": 3, "hidden": (8,)},
    ),
    "table_vae": ("table_vae", {"latent": 2, "hidden": (8, 6), "prior": "mixture"}),
    "table_vae, classes": ("table_vae", {"latent": 2, "hidden": (8,), "classes": 3}),
    "mixture_model": ("mixture_model", {"classes": 3}),
    "gaussian_mixture": ("gaussian_mixture", {"classes": (2, 3)}),
    "autoregressive_table": ("autoregressive_table", {"width": 64, "blocks": 1}),
    "sigmoid_belief_network, autoregressive": (
        "sigmoid_belief_network",
        {"units": (5, 3), "autoregressive": True},
    ),
    "made": ("made", {"hidden": (20,)}),
    "nade": ("nade", {"hidden": 6}),
    "darn": ("darn", {"units": 3, "hidden": (8,)}),
    "helmholtz_machine": ("helmholtz_machine", {"units": (5, 3)}),
    "semi_supervised_vae": ("semi_supervised_vae", {"latent": 2, "hidden": (8, 6)}),
    "m1": ("m1", {"latent": 2, "hidden": (8,)}),
    "m1_m2": ("m1_m2", {"latent": 2, "features": 3, "hidden": (8,), "upper": (6,)}),
    "auxiliary_semi_supervised_vae": (
        "auxiliary_semi_supervised_vae",
        {"latent": 2, "auxiliary": 3, "hidden": (8, 6)},
    ),
    "skip_semi_supervised_vae": (
        "skip_semi_supervised_vae",
        {"latent": 2, "auxiliary": 3, "hidden": (8, 6)},
    ),
    "variational_fair_autoencoder": (
        "variational_fair_autoencoder",
        {"latent": 2, "hidden": (8, 6)},
    ),
    "prod_lda": ("prod_lda", {"latent": 3, "hidden": (8,)}),
    "latent_dirichlet_allocation": ("latent_dirichlet_allocation", {"latent": 3}),
    "nvdm": ("nvdm", {"latent": 3, "hidden": (8,)}),
    "scvi": ("scvi", {"latent": 2, "hidden": (8,)}),
    "scvi, latent size": ("scvi", {"latent": 2, "hidden": (8,), "library": "latent"}),
    "multimodal_vae": ("multimodal_vae", {"latent": 2, "hidden": (8,)}),
    "multimodal_vae, mixture": (
        "multimodal_vae",
        {"latent": 2, "hidden": (8,), "experts": "mixture"},
    ),
    "miwae": ("miwae", {"latent": 2, "hidden": (8, 6)}),
    "not_miwae": ("not_miwae", {"latent": 2, "hidden": (8, 6)}),
    "factor_analysis": ("factor_analysis", {"latent": 2}),
    "draw": ("draw", {"steps": 2, "latent": 2, "hidden": 6, "read": 2, "write": 3}),
    "convolutional_draw": ("convolutional_draw", {"steps": 2, "latent": 1, "hidden": 3}),
    "align_draw": (
        "align_draw",
        {"steps": 2, "latent": 2, "hidden": 6, "features": 3, "state": 2, "read": 2, "write": 3},
    ),
    "attend_infer_repeat": (
        "attend_infer_repeat",
        {"steps": 2, "latent": 2, "hidden": 6, "window": 4},
    ),
    "structured_vae": ("structured_vae", {"latent": 2, "classes": 3, "hidden": (8, 6)}),
    "structured_vae, sequences": ("structured_vae", {"latent": 2, "hidden": (8, 6)}),
    "neural_statistician": ("neural_statistician", {"context": 2, "latent": 2, "hidden": (6,)}),
    "one_shot_generalisation": ("one_shot_generalisation", {"latent": 2, "hidden": (6,)}),
    "one_shot_generalisation, attended": (
        "one_shot_generalisation",
        {"latent": 2, "hidden": (6,), "context": "attended"},
    ),
    "storn": ("storn", {"latent": 2, "state": 4, "hidden": (5,)}),
    "vrnn": ("vrnn", {"latent": 2, "state": 4, "hidden": (5,)}),
    "srnn": ("srnn", {"latent": 2, "state": 4, "hidden": (5,)}),
    "srnn, filtering": (
        "srnn",
        {"latent": 2, "state": 4, "hidden": (5,), "inference": "filtering"},
    ),
    "deep_markov_model": ("deep_markov_model", {"latent": 2, "state": 4, "hidden": (5,)}),
    "deep_markov_model, mean field": (
        "deep_markov_model",
        {"latent": 2, "state": 4, "hidden": (5,), "inference": "mean_field"},
    ),
    "dvbf": ("dvbf", {"latent": 2, "state": 4, "hidden": (5,), "maps": 2}),
    "e2c": ("e2c", {"latent": 2, "state": 4, "hidden": (5,)}),
    "draw, without attention": (
        "draw",
        {"steps": 2, "latent": 2, "hidden": 6, "attention": False},
    ),
    "diffusion": ("diffusion", {"channels": (4, 4), "measured": 2, "draws": 3}),
    "nice": ("nice", {"transforms": 2, "hidden": (8,)}),
    "real_nvp": ("real_nvp", {"transforms": 1, "hidden": (4,), "scales": 2}),
    "real_nvp, learned noise": (
        "real_nvp",
        {"transforms": 2, "hidden": (4,), "scales": 1, "noise": "variational"},
    ),
    "glow": ("glow", {"transforms": 1, "hidden": (4,), "scales": 1}),
    "pixel_cnn": ("pixel_cnn", {"width": 4, "blocks": 1}),
    "gated_pixel_cnn": ("gated_pixel_cnn", {"width": 4, "layers": 2}),
    "pixel_cnn_pp": ("pixel_cnn_pp", {"width": 4, "blocks": 1, "levels": 2}),
    "pixel_rnn": ("pixel_rnn", {"width": 4, "layers": 1}),
    "image_transformer": ("image_transformer", {"width": 4, "blocks": 1}),
    "locally_masked_pixel_cnn": (
        "locally_masked_pixel_cnn",
        {"width": 4, "blocks": 1, "curves": 2},
    ),
    "pixel_vae": (
        "pixel_vae",
        {"latent": 2, "channels": (4,), "features": 8, "width": 4, "layers": 2},
    ),
    "variational_lossy_autoencoder": (
        "variational_lossy_autoencoder",
        {"latent": 2, "channels": (4,), "features": 8, "width": 4, "blocks": 1},
    ),
    "factor_analysis, one noise": ("factor_analysis", {"latent": 2, "noise": "global"}),
}


@pytest.fixture(scope="module")
def digits() -> Data:
    return load("digits", limit=30)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Data:
    path = tmp_path_factory.mktemp("data") / "table.npy"
    np.save(path, np.random.default_rng(0).normal(size=(60, 4)) * [1, 2, 3, 4] + 5)
    return load(path, likelihood="gaussian")


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Data:
    path = tmp_path_factory.mktemp("data") / "words.npy"
    np.save(path, np.random.default_rng(0).poisson([3.0, 1.0, 0.2, 2.0], size=(60, 4)))
    return load(path, likelihood="poisson")


@pytest.fixture(scope="module")
def views() -> Data:
    rng = np.random.default_rng(0)
    return load(
        {"x": rng.normal(size=(60, 3)), "x2": rng.poisson(3.0, size=(60, 2))}, group="x2=x2"
    )


@pytest.fixture(scope="module")
def sets() -> Data:
    return load("digits", members=3, limit=10)


@pytest.fixture(scope="module")
def texts() -> Data:
    rng = np.random.default_rng(0)
    rows = [" ".join(rng.choice([*"abcd"], rng.integers(1, 5))) for _ in range(60)]
    return load({"x": rows, "y": ["short" if len(row) < 5 else "long" for row in rows]})


@pytest.fixture(scope="module")
def dialogues() -> Data:
    rng = np.random.default_rng(0)
    turns = [" ".join(rng.choice([*"abcd"], rng.integers(1, 5))) for _ in range(120)]
    return load([turns[each : each + 2 + each % 4 // 2] for each in range(0, 120, 2)])


@pytest.fixture(scope="module")
def answers() -> Data:
    rows = [[" ".join("abcd"[k % 3 :]), " ".join("dcba"[k % 2 :])] for k in range(60)]
    return load({"x": rows, "y": [each % 5 > 1 for each in range(60)]})


@pytest.fixture(scope="module")
def captioned() -> Data:
    """Small pictures, and what is said of each."""
    rng = np.random.default_rng(0)
    said = [" ".join(rng.choice([*"abcd"], rng.integers(1, 5))) for _ in range(60)]
    x = rng.integers(0, 2, size=(60, 1, 5, 5))
    return load({"x": x, "caption": said}, group="caption=caption")


@pytest.fixture(scope="module")
def series() -> Data:
    """Sequences of unequal length, and an input of each step."""
    rng = np.random.default_rng(0)
    steps = [rng.normal(size=(1 + each % 3, 3)) for each in range(30)]
    return load({"x": steps, "u": [rng.exponential(size=(len(each), 1)) for each in steps]})


@pytest.fixture(scope="module")
def smiles() -> Data:
    return load(MOLECULES, tokens="smiles")


@pytest.fixture(scope="module")
def selfies() -> Data:
    pytest.importorskip("selfies", reason="needs the extra 'molecules'")
    return load(MOLECULES, tokens="selfies")


@pytest.fixture(scope="module")
def derivations() -> Data:
    return load(MOLECULES, tokens="smiles-grammar")


MOLECULES = 4 * [f"{left}C(={right})c1ccccc1" for left in ("C", "CC", "N", "O") for right in "OSN"]
# What recipes, or variants of one, are tried on, by the name of a fixture; others on digits.
TRIED_ON = {
    "table": ("factor_analysis", "gaussian_mixture", "not_miwae"),
    "words": ("prod_lda", "latent_dirichlet_allocation", "nvdm", "scvi"),
    "views": ("multimodal_vae",),
    "sets": ("neural_statistician", "one_shot_generalisation"),
    "dialogues": ("vhred", "dialogue_cvae"),
    "answers": ("answer_selection",),
    "captioned": ("align_draw",),
    "texts": recipes.PUBLISHED["Text"],
    "smiles": ("smiles_vae",),
    "selfies": ("selfies_vae",),
    "derivations": ("grammar_vae",),
    "series": (
        "storn",
        "vrnn",
        "srnn",
        "deep_markov_model",
        "structured_vae, sequences",
        "dvbf",
        "e2c",
    ),
}


@pytest.fixture(params=SMALL)
def small(request: Any) -> tuple[LatentVariableModel, Data]:
    """A small model of a recipe, and data for it."""
    name, options = SMALL[request.param]
    own = {name, request.param}
    fixture = next((each for each, names in TRIED_ON.items() if own.intersection(names)), "digits")
    data = request.getfixturevalue(fixture)
    return build(find(name), data, options, 0), data


VIMCO = Suited(ScoreFunction(LeaveOneOut()))  # for latents without a reparameterised draw


# These trace what others trace: the objective of the recipe is tried with each of them.
TRACED_ELSEWHERE = (
    "structured_vae, sequences",  # of unequal lengths, which are not traced
    "storn",
    "vrnn",
    "srnn",
    "srnn, filtering",
    "dvbf",
    "e2c",
    "deep_markov_model, mean field",
    "smiles_vae",
    "selfies_vae",
    "hybrid_text_vae",
    "semi_supervised_text",
    "vhred",
    "dialogue_cvae",
    "answer_selection",
    "controllable_text_vae",
    "nice",
    "real_nvp",
    "draw, without attention",
    "convolutional_draw",
    "align_draw",
    "attend_infer_repeat",
    "one_shot_generalisation",
    "one_shot_generalisation, attended",
    "m1_m2",
    "auxiliary_semi_supervised_vae",
    "skip_semi_supervised_vae",
    "conditional_vae",
    "voice_conversion",
    "vae, flow prior",
    "biva",
    "deep_latent_gaussian_model",
    "ladder_vae, bottom up",
    "resnet_iaf_vae",
    "very_deep_vae",
    "convolutional_ladder_vae, ladder",
    "convolutional_ladder_vae, bottom up",
    "factor_analysis, one noise",
    "gaussian_mixture",
    "sigmoid_belief_network",
    "sigmoid_belief_network, autoregressive",
    "nade",
    "darn",
    "helmholtz_machine",
    "beta_vae",
    "iwae, one layer",
    "normalizing_flow_vae, radial",
    "householder_flow_vae",
    "pixel_cnn",
    "gated_pixel_cnn",
    "pixel_cnn_pp",
    "pixel_rnn",
    "image_transformer",
    "pixel_vae",
    "variational_lossy_autoencoder",
    "renyi_vae",
    "beta_tc_vae",
    "nvdm",
)
# The backward pass, in full precision, is traced of those that have something of their own there:
# nothing, convolutions, factors of matrices, masked networks, gradients within the step, credit,
# special functions.
TRACED_BACKWARD = (
    "vae",
    "convolutional_vae",
    "full_covariance_vae",
    "inverse_autoregressive_flow_vae",
    "hamiltonian_vae",
    "sigmoid_belief_network, deep",
    "scvi, latent size",
)
# One of each kind is traced forward: several layers of maps, steps, texts, times drawn a row, a
# label summed out, several names, messages, attention. The long form traces all.
TRACED_FORWARD = (
    "convolutional_ladder_vae",
    "deep_markov_model",
    "sentence_vae",
    "diffusion",
    "semi_supervised_vae",
    "multimodal_vae",
    "structured_vae",
    "draw",
)


def latents(model: LatentVariableModel, given: dict[str, Tensor]) -> list[Site]:
    with torch.no_grad():
        trace = model.posterior(given)
    return [site for site in trace.values() if site.drawn and site.distribution is not None]


def rows(model: LatentVariableModel, data: Data) -> dict[str, Tensor]:
    given = data.batch("train", slice(7))  # a label that q can draw is drawn
    drawn = {"y"}.intersection(model.q.names)
    if drawn and model.p["y"] is model.q["y"]:  # drawn, it says nothing
        drawn = set()
    return {n: v for n, v in given.items() if n in model.names and n not in drawn}


def test_every_parameter_gets_a_gradient(small: tuple[LatentVariableModel, Data]) -> None:
    model, data = small
    beside = any([isinstance(each, BagOfWords) for each in model.modules()])
    objective = auxiliary_elbo if beside else elbo
    values, _ = model.estimate(objective, rows(model, data), particles=2, default=VIMCO)
    values.mean().backward()
    parameters = [each for each in model.named_parameters() if each[1].numel()]
    without = [name for name, p in parameters if p.grad is None or not p.grad.any()]
    assert without == []


FORWARD = [name for name in SMALL if name not in TRACED_ELSEWHERE] if FULL else TRACED_FORWARD
STEPS = [(name, True) for name in FORWARD]
STEPS += [(name, False) for name in TRACED_BACKWARD]


@pytest.mark.parametrize(
    "small, bfloat16",
    STEPS,
    ids=[f"{name}-{'bfloat16' if narrow else 'full precision'}" for name, narrow in STEPS],
    indirect=["small"],
)
def test_the_training_step_is_one_graph(
    small: tuple[LatentVariableModel, Data], request: Any, *, bfloat16: bool
) -> None:
    """With the objectives that recipes and users take, in values and gradients as untraced.

    In bfloat16 the forward pass is traced; full precision is a part of that, as conditionals and
    flows are traced in it by their laws.
    """
    model, data = small
    name = request.node.callspec.params["small"]
    own = training_of(find(SMALL[name][0])).get("objective", elbo)
    model.to(torch.float32 if bfloat16 else torch.float64)
    kind = next(model.parameters()).dtype
    given = {n: v if n == "n" else v.to(kind) for n, v in rows(model, data).items()}
    objectives = [filled_in(own, 100), iwae, partial(elbo, form="analytic")]
    credited = not all([site.distribution.has_rsample for site in latents(model, given)])
    if not credited:
        objectives.append(free_bits)
    elif not bfloat16 or own is not elbo:  # of an ELBO, once; each is a trace of its own
        objectives = objectives[:1]

    def step(given: dict[str, Tensor]) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            if credited:
                each = [
                    model.estimate(objective, given, particles=2, default=VIMCO, missing=())[0]
                    for objective in objectives
                ]
                return torch.stack(each).mean(-1).sum()
            evidence = model.evidence(given, particles=2, missing=())
            return torch.stack([objective(evidence).mean() for objective in objectives]).sum()

    step(given)  # as in a fit: torch looks closed forms of divergences up once, out of any graph
    torch.compiler.reset()  # the cache is by code, which all recipes share here
    backend = "eager" if bfloat16 else "aot_eager_default_partitioner"
    compiled = torch.compile(step, fullgraph=True, backend=backend)
    parameters = list(model.parameters())
    torch.manual_seed(1)
    value = compiled(given)
    gradients = torch.autograd.grad(value, parameters)
    torch.manual_seed(1)
    expected = step(given)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, parameters))
    assert {gradient.dtype for gradient in gradients} == {parameters[0].dtype}


def test_a_description_is_enough(small: tuple[LatentVariableModel, Data], request: Any) -> None:
    model, data = small
    name, options = SMALL[request.node.callspec.params["small"]]
    description = Description.from_dict(data.to_dict())
    again = build(find(name), description, options, 0)
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_printing_shows_the_factorisation(small: tuple[LatentVariableModel, Data]) -> None:
    model, _ = small
    assert str(model).removeprefix("∏_t ").startswith("p(")
    assert "parameters" in repr(model)


def test_samples_have_the_shape_of_the_data(small: tuple[LatentVariableModel, Data]) -> None:
    model, data = small
    given = {"y": torch.zeros(5, dtype=torch.int64)} if "y" in model.names else {}
    x = data.variables["x"]
    batch = data.batch("train", slice(5))
    if "x" in model.p.inputs:  # what is modelled is said of x
        assert model.sample(given={"x": batch["x"]})["y"].value.shape == (5,)
        return
    known = ("u", "n", "caption")
    if not {*known}.isdisjoint(model.p.inputs):
        given = {name: batch[name] for name in known if name in batch}
    drawn = model.sample(5, given)["x"].value
    steps = () if x.length is None else drawn.shape[1:2]
    assert drawn.shape == (5, *steps, *x.shape)


def test_published_recipes_cite_their_paper_and_document_their_options() -> None:
    for name, recipe in published().items():
        entry = describe(name, recipe)
        assert entry.summary.endswith(".")
        assert entry.title, name
        assert 1990 < entry.year < 2100
        assert entry.link.startswith("https://")
        from deeplvm.cli.options import options_of

        for option in options_of(recipe).values():
            assert option.help, f"{name}: {option.name}"


def test_a_convolution_takes_images_of_any_size(tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (30, 7, 13, 3)).astype(np.uint8)
    np.save(tmp_path / "pictures.npy", pictures)
    data = load(tmp_path / "pictures.npy")
    model = recipes.convolutional_vae(data, latent=2, channels=(4,), features=8)
    assert model.sample(2)["x"].value.shape == (2, 3, 7, 13)


def test_the_iwae_decoder_starts_at_the_mean() -> None:
    data = load("digits", binarize="static", limit=200)
    model = recipes.iwae(data)
    mean = data.variables["x"].mean.clamp(0.01, 0.99).to(torch.get_default_dtype())
    start = model.p["x"](torch.zeros(1, 50)).mean[0]
    torch.testing.assert_close(start, mean, rtol=1e-4, atol=1e-4)
    assert training_of(recipes.iwae)["objective"].__name__ == "iwae"


def test_a_missing_label_is_said(table: Data) -> None:
    with pytest.raises(RecipeError, match=r"has no labels.*--label"):
        recipes.conditional_vae(table)


def test_what_a_recipe_cannot_model_is_said(digits: Data, table: Data) -> None:
    with pytest.raises(RecipeError, match=r"images of numbers.*take the recipe vae"):
        recipes.convolutional_vae(table)
    with pytest.raises(RecipeError, match="takes real numbers"):
        recipes.factor_analysis(digits)
    with pytest.raises(RecipeError, match="latent must be at least 1, found 0"):
        recipes.vae(digits, latent=0)


def test_an_unknown_recipe_has_neighbours() -> None:
    with pytest.raises(RecipeError, match="did you mean factor_analysis"):
        find("factor-analisys")
    assert find("convolutional-vae") is recipes.convolutional_vae


def _marginal(model: LatentVariableModel, latent: int) -> torch.distributions.Distribution:
    """p(x) = N(mu, W W' + noise) of a linear model."""
    likelihood = model.p["x"]
    origin = likelihood(torch.zeros(1, latent))
    loadings = (likelihood(torch.eye(latent)).mean - origin.mean).T
    covariance = loadings @ loadings.T + torch.diag(origin.variance[0])
    return torch.distributions.MultivariateNormal(origin.mean[0], covariance)


def _linear_rows(tmp_path: Path, noise: np.ndarray[Any, Any]) -> tuple[Data, Tensor]:
    rng = np.random.default_rng(0)
    loadings = rng.normal(size=(6, 2)) * [2.0, 1.0]
    x = rng.normal(size=(600, 2)) @ loadings.T + rng.normal(size=(600, 6)) * noise + np.arange(6)
    np.save(tmp_path / "linear.npy", x)
    data = load(tmp_path / "linear.npy", likelihood="gaussian")
    return data, data.batch("train", slice(None))["x"]


# full batches, because the closed form is of these very rows
LINEAR: dict[str, Any] = training_of(recipes.factor_analysis) | {
    "epochs": 300,
    "batch_size": 1000,
    "learning_rate": 3e-2,
    "quiet": True,
}


@torch.no_grad()
def _gaps(model: LatentVariableModel, x: Tensor, best: float) -> tuple[float, float]:
    """What the likelihood, and what the bound, lacks of the maximum; nats a row."""
    bound = elbo(model.evidence({"x": x}, particles=100, missing=())).mean()
    return best - float(_marginal(model, 2).log_prob(x).mean()), best - float(bound)


def test_r2_2_1_one_noise_reaches_the_closed_form_of_principal_components(tmp_path: Path) -> None:
    data, x = _linear_rows(tmp_path, np.full(6, 0.7))
    model = build(recipes.factor_analysis, data, {"latent": 2, "noise": "global"}, 1)
    unfolded(fit)(model, {"x": x}, **LINEAR)
    # -1/2 {D log 2 pi + sum_k log l_k + (D - K) log s2 + D}, s2 the mean of the discarded l
    eigenvalues = torch.linalg.eigvalsh(torch.cov(x.T, correction=0)).flip(0)
    rest = float(eigenvalues[2:].mean())
    best = -0.5 * (
        6 * math.log(2 * math.pi) + float(eigenvalues[:2].log().sum()) + 4 * math.log(rest) + 6
    )
    likelihood, bound = _gaps(model, x, best)
    assert -1e-9 < likelihood < 0.001
    assert abs(bound) < 0.01


def test_r2_2_1_noise_by_dimension_reaches_the_maximum_that_em_finds(tmp_path: Path) -> None:
    from sklearn.decomposition import FactorAnalysis

    data, x = _linear_rows(tmp_path, np.linspace(0.4, 1.2, 6))
    model = build(recipes.factor_analysis, data, {"latent": 2}, 1)
    unfolded(fit)(model, {"x": x}, **LINEAR)
    em = FactorAnalysis(2, tol=1e-8, max_iter=10_000, svd_method="lapack").fit(x.numpy())
    likelihood, bound = _gaps(model, x, float(em.score(x.numpy())))
    assert abs(likelihood) < 0.001
    assert abs(bound) < 0.01


def test_a_function_of_ones_own_is_a_recipe(table: Data) -> None:
    def mine(data: Data) -> LatentVariableModel:
        return LatentVariableModel(Joint({"x": likelihood_of(data.variables["x"])}))

    assert build(mine, table, {}, 0).names == {"x"}
    assert training_of(mine) == {}


# Of those a number is exported in a short time, one has no encoder, one is refused whole.
EXPORTED = ("factor_analysis", "made", "sentence_vae")


@pytest.mark.parametrize("small", SMALL if FULL else EXPORTED, indirect=True)
def test_what_is_exported_agrees_or_is_refused_in_a_sentence(
    small: tuple[LatentVariableModel, Data], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    torch.set_default_dtype(torch.float32)
    model, data = small
    name, options = SMALL[request.node.callspec.params["small"]]
    run = Run(tmp_path, Config("data", name, recipe_options=options), data.description)
    vars(run).update(model=model.float().eval(), data=data)
    run.save_model(model)
    parts: tuple[Part, ...] = ("encoder", "decoder", "log-likelihood")
    for form in get_args(Form) if FULL else ("pt2",):
        for part in parts if FULL else parts[:1]:
            path, said = tmp_path / f"{part}.{form}", ""
            try:
                assert write(run, part, path, form, particles=4).difference <= AGREEMENT
            except ExportError as error:
                said = str(error)
            assert path.exists() == (not said)
            assert not said or (said.endswith(".") and len(said) < 400)
            assert "differs from the run" not in said
            assert "does not read back" not in said
