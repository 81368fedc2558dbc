"""Both halves of a conversion run by the real software, fairseq and transformers, on the same batches.

Tensors come from ckptconv's own reader and configs from inert documents: nothing that a file says is executed, and
neither fairseq's nor torch's loader of files is used. The models are fairseq's and transformers' own.
"""

from ckptconv.forward.model import Forward, Layer, Subject
from ckptconv.forward.run import run_both

__all__ = ["Forward", "Layer", "Subject", "run_both"]
