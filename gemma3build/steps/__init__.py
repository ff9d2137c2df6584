"""The work inside containers: one package an image, one module a step with ``run(request, output) -> facts``.

Steps import ``gemma``, ``formats``, ``schema`` and ``util``, and the packages of their image.
"""
