"""Answers of a trained model."""

from training.inference.generate import greedy

__all__ = ["greedy"]
