"""Which channels of a model belong together: the walk over its graph, and the table of layers.

In comes what reads a model and changes nothing: groups, budgets, costs, reports.
"""
