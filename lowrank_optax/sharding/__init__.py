"""Meshes: what is where, and how little has to move."""
