"""Where a network looks: saliency maps, and what they are worth.

In comes what explains a trained network; growing has no part in it.
"""
