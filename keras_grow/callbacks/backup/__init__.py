"""GrowthBackup: the callback, its file, a run's state, and the steps of an interrupted epoch.

In comes what a run needs to go on in another process.
"""
