"""Lossless compression: the file of rows is as small as the evidence bound of the model says."""

from deeplvm.compression.archive import Compression, compress, decompress
from deeplvm.compression.exact import CompressionError

__all__ = ["Compression", "CompressionError", "compress", "decompress"]
