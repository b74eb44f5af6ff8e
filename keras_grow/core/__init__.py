"""The one operation, a widening, as pure functions of arrays; and what Keras keeps private.

In comes what knows neither layers nor models of this package.
"""
