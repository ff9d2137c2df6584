"""The steps that run inside containers: a package for each image, a module with ``run(request, output) -> facts`` for each step.

Steps import ``gemma``, ``formats``, ``schema`` and ``util``, and the packages of their image.
"""
