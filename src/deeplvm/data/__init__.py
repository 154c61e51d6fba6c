"""Files and named data sets -> named tensors, with every choice written down."""

from deeplvm.data.catalogue import DatasetInfo, datasets
from deeplvm.data.likelihood import Choice, choose_likelihood, likelihood_of
from deeplvm.data.loading import load
from deeplvm.data.records import Batch, Data, Description, Renewal, Selection, Split
from deeplvm.data.stream import Stream
from deeplvm.data.variable import DataError, Kind, LikelihoodName, Variable

__all__ = [
    "Batch",
    "Choice",
    "Data",
    "DataError",
    "DatasetInfo",
    "Description",
    "Kind",
    "LikelihoodName",
    "Renewal",
    "Selection",
    "Split",
    "Stream",
    "Variable",
    "choose_likelihood",
    "datasets",
    "likelihood_of",
    "load",
]
