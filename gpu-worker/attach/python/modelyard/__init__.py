"""Attach to model weights that a modelyard agent keeps in memory, without a copy."""

from ._attach import Attachment, AttachError, TensorInfo, attach

__all__ = ["AttachError", "Attachment", "TensorInfo", "attach"]
__version__ = "0.1.0"
