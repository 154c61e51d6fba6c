"""Files and named data sets -> named tensors, with every choice written down."""

from deeplvm.data.errors import DataError
from deeplvm.data.likelihoods import likelihood_of
from deeplvm.data.loading import load
from deeplvm.data.looking import Choice, LikelihoodName, choose_likelihood
from deeplvm.data.named import DatasetInfo, datasets
from deeplvm.data.records import Data, Description, Kind, Renewal, Rows, Split, Variable
from deeplvm.data.stream import Stream

__all__ = [
    "Choice",
    "Data",
    "DataError",
    "DatasetInfo",
    "Description",
    "Kind",
    "LikelihoodName",
    "Renewal",
    "Rows",
    "Split",
    "Stream",
    "Variable",
    "choose_likelihood",
    "datasets",
    "likelihood_of",
    "load",
]
