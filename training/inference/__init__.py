"""Answers of a trained model."""

from training.inference.generate import greedy, sample

__all__ = ["greedy", "sample"]
