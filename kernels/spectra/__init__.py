"""Eigenspectra of feed-forward activations (NerVE, arXiv 2603.06922): exact, cheap, anywhere.

Needs torch alone, so that it runs where a program runs. ``Recorder`` watches a model and returns
plain records; the rest is what it is made of.
"""

from nightlab.kernels.spectra.definitions import (
    Spread,
    divergence,
    early_enrichment,
    participation_ratio,
    shares,
    spectral_entropy,
)
from nightlab.kernels.spectra.depth import FeedForward
from nightlab.kernels.spectra.moments import Moments, Spectrum, spectrum, spread
from nightlab.kernels.spectra.recorder import Record, Recorder, Watch
from nightlab.kernels.spectra.syrk import centered_syrk, ffn_pair_moments, gram, path

__all__ = [
    "FeedForward",
    "Moments",
    "Record",
    "Recorder",
    "Spectrum",
    "Spread",
    "Watch",
    "centered_syrk",
    "divergence",
    "early_enrichment",
    "ffn_pair_moments",
    "gram",
    "participation_ratio",
    "path",
    "shares",
    "spectral_entropy",
    "spectrum",
    "spread",
]
