"""The similarity penalty: its mathematics (Eq. 1 to 5), and the window in which it counts.

In comes what measures or penalises neurons of a model as it is.
"""
