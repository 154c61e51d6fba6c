"""What a run has learned as plain functions of tensors, and as files that others can run."""

from deeplvm.export.functions import Decoder, Encoder, ExportError, LogLikelihood, Port

__all__ = ["Decoder", "Encoder", "ExportError", "LogLikelihood", "Port"]
