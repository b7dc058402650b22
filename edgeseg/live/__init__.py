"""Live video: a source that does not wait, masks that are never older than they may be.

A session (``session.py``) has four parts that do not wait for each other: one thread captures, one
computes, one shows, and each sink has its own.
"""
