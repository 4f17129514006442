"""Answers of a trained model."""

from training.inference.generate import continue_prompts, greedy

__all__ = ["continue_prompts", "greedy"]
