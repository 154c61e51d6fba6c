"""Recipes: published models, each a short function that composes instances.

A recipe is any function ``(data, *, typed options) -> LatentVariableModel``; it reads only what
the data are (``data.variables``, ``data.classes``), so a finished run is rebuilt without its data.
"""

from deeplvm.recipes.autoregressive import darn, made, nade
from deeplvm.recipes.auxiliary import auxiliary_vae, hierarchical_variational_vae
from deeplvm.recipes.catalogue import (
    Entry,
    Recipe,
    RecipeError,
    describe,
    find,
    name_of,
    published,
    trained_with,
    training_of,
)
from deeplvm.recipes.conditional import conditional_vae
from deeplvm.recipes.control import dvbf, e2c
from deeplvm.recipes.convolutional import convolutional_vae
from deeplvm.recipes.convolutional_text import dilated_text_vae, hybrid_text_vae
from deeplvm.recipes.counts import scvi
from deeplvm.recipes.dialogue import answer_selection, dialogue_cvae, vhred
from deeplvm.recipes.diffusion import diffusion
from deeplvm.recipes.discrete import gumbel_softmax_vae, helmholtz_machine, sigmoid_belief_network
from deeplvm.recipes.flow_posteriors import (
    householder_flow_vae,
    inverse_autoregressive_flow_vae,
    normalizing_flow_vae,
    sylvester_vae,
)
from deeplvm.recipes.gaussian_process import variational_gaussian_process
from deeplvm.recipes.graphs import graph_autoencoder, variational_graph_autoencoder
from deeplvm.recipes.hamiltonian import hamiltonian_vae
from deeplvm.recipes.hierarchies import deep_latent_gaussian_model, ladder_vae
from deeplvm.recipes.importance_weighted import iwae
from deeplvm.recipes.invertible import glow, nice, real_nvp
from deeplvm.recipes.labelled_text import controllable_text_vae, semi_supervised_text
from deeplvm.recipes.latent_maps import (
    biva,
    convolutional_ladder_vae,
    resnet_iaf_vae,
    very_deep_vae,
)
from deeplvm.recipes.linear import factor_analysis
from deeplvm.recipes.messages import structured_vae
from deeplvm.recipes.missing import miwae, not_miwae
from deeplvm.recipes.molecules import grammar_vae, selfies_vae, smiles_vae
from deeplvm.recipes.multimodal import multimodal_vae
from deeplvm.recipes.pixels import (
    gated_pixel_cnn,
    image_transformer,
    locally_masked_pixel_cnn,
    pixel_cnn,
    pixel_cnn_pp,
    pixel_rnn,
    pixel_vae,
    variational_lossy_autoencoder,
)
from deeplvm.recipes.plain import beta_tc_vae, beta_vae, full_covariance_vae, renyi_vae, vae
from deeplvm.recipes.recurrent_images import (
    align_draw,
    attend_infer_repeat,
    convolutional_draw,
    draw,
)
from deeplvm.recipes.semi_supervised import (
    auxiliary_semi_supervised_vae,
    m1,
    m1_m2,
    semi_supervised_vae,
    skip_semi_supervised_vae,
    variational_fair_autoencoder,
)
from deeplvm.recipes.sequences import deep_markov_model, srnn, storn, vrnn
from deeplvm.recipes.sets import neural_statistician, one_shot_generalisation
from deeplvm.recipes.tables import autoregressive_table, gaussian_mixture, mixture_model, table_vae
from deeplvm.recipes.text import recurrent_language_model, sentence_vae
from deeplvm.recipes.topics import latent_dirichlet_allocation, nvdm, prod_lda
from deeplvm.recipes.voice import voice_conversion

# by what the data are or what is asked of them, and in a group what to try first comes first
PUBLISHED = {
    "To begin with": ("vae", "convolutional_vae", "iwae", "factor_analysis"),
    "Images: several layers of latents": (
        "convolutional_ladder_vae",
        "resnet_iaf_vae",
        "biva",
        "very_deep_vae",
        "ladder_vae",
        "deep_latent_gaussian_model",
    ),
    "Images: each pixel given those before it": (
        "pixel_cnn",
        "gated_pixel_cnn",
        "pixel_cnn_pp",
        "pixel_rnn",
        "image_transformer",
        "locally_masked_pixel_cnn",
        "pixel_vae",
        "variational_lossy_autoencoder",
    ),
    "Images: drawn in steps, or of several objects": (
        "draw",
        "convolutional_draw",
        "align_draw",
        "attend_infer_repeat",
    ),
    "Images and tables: exact densities, and diffusion": (
        "made",
        "nade",
        "nice",
        "real_nvp",
        "glow",
        "diffusion",
    ),
    "Tables": ("mixture_model", "gaussian_mixture", "autoregressive_table", "table_vae"),
    "Missing values": ("miwae", "not_miwae", "multimodal_vae"),
    "Counts of words or genes": ("prod_lda", "latent_dirichlet_allocation", "nvdm", "scvi"),
    "Labels": (
        "conditional_vae",
        "voice_conversion",
        "semi_supervised_vae",
        "m1",
        "m1_m2",
        "auxiliary_semi_supervised_vae",
        "skip_semi_supervised_vae",
        "variational_fair_autoencoder",
    ),
    "Sequences": ("deep_markov_model", "structured_vae", "srnn", "vrnn", "storn", "dvbf", "e2c"),
    "Text": (
        "sentence_vae",
        "recurrent_language_model",
        "dilated_text_vae",
        "hybrid_text_vae",
        "semi_supervised_text",
        "controllable_text_vae",
        "vhred",
        "dialogue_cvae",
        "answer_selection",
    ),
    "Sets": ("neural_statistician", "one_shot_generalisation"),
    "Graphs and molecules": (
        "variational_graph_autoencoder",
        "graph_autoencoder",
        "smiles_vae",
        "selfies_vae",
        "grammar_vae",
    ),
    "Discrete latents": (
        "sigmoid_belief_network",
        "darn",
        "helmholtz_machine",
        "gumbel_softmax_vae",
    ),
    "Richer posteriors": (
        "full_covariance_vae",
        "normalizing_flow_vae",
        "inverse_autoregressive_flow_vae",
        "sylvester_vae",
        "householder_flow_vae",
        "hamiltonian_vae",
        "auxiliary_vae",
        "hierarchical_variational_vae",
        "variational_gaussian_process",
    ),
    "Other bounds": ("beta_vae", "beta_tc_vae", "renyi_vae"),
}

__all__ = [
    "PUBLISHED",
    "Entry",
    "Recipe",
    "RecipeError",
    "align_draw",
    "answer_selection",
    "attend_infer_repeat",
    "autoregressive_table",
    "auxiliary_semi_supervised_vae",
    "auxiliary_vae",
    "beta_tc_vae",
    "beta_vae",
    "biva",
    "conditional_vae",
    "controllable_text_vae",
    "convolutional_draw",
    "convolutional_ladder_vae",
    "convolutional_vae",
    "darn",
    "deep_latent_gaussian_model",
    "deep_markov_model",
    "describe",
    "dialogue_cvae",
    "diffusion",
    "dilated_text_vae",
    "draw",
    "dvbf",
    "e2c",
    "factor_analysis",
    "find",
    "full_covariance_vae",
    "gated_pixel_cnn",
    "gaussian_mixture",
    "glow",
    "grammar_vae",
    "graph_autoencoder",
    "gumbel_softmax_vae",
    "hamiltonian_vae",
    "helmholtz_machine",
    "hierarchical_variational_vae",
    "householder_flow_vae",
    "hybrid_text_vae",
    "image_transformer",
    "inverse_autoregressive_flow_vae",
    "iwae",
    "ladder_vae",
    "latent_dirichlet_allocation",
    "locally_masked_pixel_cnn",
    "m1",
    "m1_m2",
    "made",
    "miwae",
    "mixture_model",
    "multimodal_vae",
    "nade",
    "name_of",
    "neural_statistician",
    "nice",
    "normalizing_flow_vae",
    "not_miwae",
    "nvdm",
    "one_shot_generalisation",
    "pixel_cnn",
    "pixel_cnn_pp",
    "pixel_rnn",
    "pixel_vae",
    "prod_lda",
    "published",
    "real_nvp",
    "recurrent_language_model",
    "renyi_vae",
    "resnet_iaf_vae",
    "scvi",
    "selfies_vae",
    "semi_supervised_text",
    "semi_supervised_vae",
    "sentence_vae",
    "sigmoid_belief_network",
    "skip_semi_supervised_vae",
    "smiles_vae",
    "srnn",
    "storn",
    "structured_vae",
    "sylvester_vae",
    "table_vae",
    "trained_with",
    "training_of",
    "vae",
    "variational_fair_autoencoder",
    "variational_gaussian_process",
    "variational_graph_autoencoder",
    "variational_lossy_autoencoder",
    "very_deep_vae",
    "vhred",
    "voice_conversion",
    "vrnn",
]
