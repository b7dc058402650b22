"""The model families: one module each, found by `edgeseg.export.registry`.

A module defines ``FAMILY``, an instance of a subclass of `edgeseg.export.family.Family`. Modules
whose name begins with an underscore hold what several families share.
"""
