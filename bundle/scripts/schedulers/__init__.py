"""Noise schedulers: the mathematics of each diffusion process and nothing else."""

from .bernoulli import BernoulliScheduler
from .decay_bernoulli import DecayBernoulliScheduler
from .gaussian import GaussianScheduler

__all__ = ["BernoulliScheduler", "DecayBernoulliScheduler", "GaussianScheduler"]
