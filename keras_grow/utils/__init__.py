"""What has nothing to do with networks: checks of arguments, files, a progress bar.

In comes what several rooms need and that imports nothing of this package.
"""
