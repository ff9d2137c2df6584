"""The work inside containers: one module a step, each with ``run(request, output) -> facts``.

Steps import ``gemma3build.core`` and the packages of their image, nothing else of this project.
"""
