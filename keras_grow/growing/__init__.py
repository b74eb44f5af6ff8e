"""Applying widenings to live models and their optimizers: everything, or nothing.

In comes what changes a model's variables or copies a model; which neurons to add is none of it.
"""
