"""Images that need no download: a pre-training corpus, ten small tasks (mini-VTAB) and planted near-duplicates.

Every pixel is a function of names, keys and the seed. Scores on these tasks are called mini-VTAB, never VTAB.
"""
