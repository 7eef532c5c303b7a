"""Data-free knowledge transfer via DeepInversion: the method, its applications, and the study that reproduces it."""
