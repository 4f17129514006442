"""The commands of train.py."""
