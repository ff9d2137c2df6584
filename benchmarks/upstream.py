"""Run the converter's own Gemma 3 script, in the convert image: ``python upstream.py RESULT ARGS``.

The script cannot be imported as released, see ``gemma3build.steps.convert.export``; nothing else of it is
changed. It writes the wall-clock time and peak memory to RESULT.
"""

import json
import runpy
import sys
from pathlib import Path

from gemma3build.steps.__main__ import peak_memory, seconds_since_start
from gemma3build.steps.convert.export import import_litert_torch  # noqa: F401 - importing it makes the script importable

SCRIPT = "litert_torch.generative.examples.gemma3.convert_gemma3_to_tflite"

result = Path(sys.argv[1])
sys.argv = [SCRIPT, *sys.argv[2:]]
try:
    runpy.run_module(SCRIPT, run_name="__main__")
except SystemExit as stop:  # absl's app.run ends in one
    if stop.code:
        raise
result.write_text(json.dumps({"seconds": seconds_since_start(), "peak_memory": peak_memory()}))
