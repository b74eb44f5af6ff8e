"""What happens while `fit` runs: growing, backing up, logging.

In comes whatever is a Keras callback, or decides for one; the model knows none of them.
"""
