"""Speed and memory of a bundle in LiteRT-LM's own benchmark on the CPU.

Inputs:
    bundle: a directory with the ``.task`` alone.
Parameters:
    runs: how many processes are measured.
Outputs:
    ``speed.json``: a ``Speed``.

Every run is a separate process, as an app is. One more runs first and does not count: it packs the
weights for this processor and keeps them in a cache, as an app does when it is first opened. The
figures are those of every later start: the packed weights are then mapped from the disk, and the first
process makes them in memory.
"""

import json
import mmap
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import litert_lm

from gemma3build.gemma.graph import CACHE
from gemma3build.schema.evaluation import SPEED_FILE, Speed
from gemma3build.schema.step import StepRequest
from gemma3build.util.machine import cores, here, versions
from gemma3build.util.serialize import Record, decode_json, encode, pretty_json

RUN = "run.json"
MODULE = "gemma3build.steps.evaluate.speed"
PREFILL_TOKENS = 256
DECODE_TOKENS = 64
MODEL_MEMBER = "TF_LITE_PREFILL_DECODE"
KEYS = f"{CACHE}_k_0".encode()  # [1, heads, positions, head size]
POSITIONS = 2
PACKAGES = ("litert-lm-api",)


class Job(Record):
    """What one process runs: a ``.task``, and the directory ``cache`` for its packed weights."""

    bundle: str
    cache: str
    prefill_tokens: int
    decode_tokens: int
    threads: int


class SpeedRun(Record):
    """What one process measured: tokens per second."""

    prefill: float
    decode: float


def run(request: StepRequest, output: Path) -> dict[str, Any]:
    """Measure the bundle; return the settings only, because the figures differ from run to run.

    Raises:
        ValueError: the runtime processed another number of tokens.
        CalledProcessError: it failed; the log has the reason.
    """
    bundle = request.only_file("bundle")
    scratch = Path(tempfile.gettempdir())
    prefill, decode = lengths(cache_length(bundle))
    job = Job(
        bundle=str(bundle),
        cache=str(scratch),
        prefill_tokens=prefill,
        decode_tokens=decode,
        threads=cores(),
    )
    measure(job, scratch)
    measured = [measure(job, scratch) for _ in range(request.parameters["runs"])]
    speed = Speed(
        prefill=statistics.median(figures.prefill for figures, _ in measured),
        decode=statistics.median(figures.decode for figures, _ in measured),
        peak_memory=int(statistics.median(memory for _, memory in measured)),
        prefill_tokens=prefill,
        decode_tokens=decode,
        runs=len(measured),
        threads=job.threads,
        runtime=versions(*PACKAGES),
        machine=here(),
    )
    (output / SPEED_FILE).write_bytes(pretty_json(speed))
    return {"prefill_tokens": prefill, "decode_tokens": decode, "runs": speed.runs}


def cache_length(bundle: Path) -> int:
    """Return how many tokens the key-value cache of a bundle's model holds.

    The model is mapped in the archive, which stores it uncompressed. A copy in memory would count for
    every process that is measured: Linux starts a child's peak at the peak of its parent.

    Raises:
        ValueError: no signature has a cache.
    """
    # Imported here, because the processes that are measured import this module.
    from ai_edge_litert import schema_py_generated as schema

    with bundle.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        model = schema.Model.GetRootAs(data, model_offset(bundle, data))
        for index in range(model.SignatureDefsLength()):
            signature = model.SignatureDefs(index)
            tensors = model.Subgraphs(signature.SubgraphIndex())
            for place in range(signature.InputsLength()):
                if signature.Inputs(place).Name() == KEYS:
                    tensor = tensors.Tensors(signature.Inputs(place).TensorIndex())
                    return int(tensor.Shape(POSITIONS))
    raise ValueError(f"no signature of {bundle.name} has an input {KEYS.decode()}")


def model_offset(bundle: Path, data: mmap.mmap) -> int:
    """Return where the model begins in a bundle: after its local header, APPNOTE.TXT 4.3.7."""
    with zipfile.ZipFile(bundle) as archive:
        header = archive.getinfo(MODEL_MEMBER).header_offset
    name_size, extra_size = struct.unpack_from("<HH", data, header + 26)
    return header + 30 + int(name_size) + int(extra_size)


def lengths(cache: int) -> tuple[int, int]:
    """Return the tokens to prefill and to decode with a key-value cache of this length.

    The benchmark of LiteRT-LM 0.18.1 counts the prompt twice, and stops where the cache seems full.
    """
    decode = min(DECODE_TOKENS, cache // 4)
    return min(PREFILL_TOKENS, (cache - decode) // 2), decode


def measure(job: Job, scratch: Path) -> tuple[SpeedRun, int]:
    """Run a job in a new process; return what it measured and its peak memory in bytes."""
    answer = scratch / RUN
    answer.unlink(missing_ok=True)
    command = [sys.executable, "-m", MODULE, json.dumps(encode(job)), str(answer)]
    with subprocess.Popen(command) as process:
        # Of this child: getrusage gives the largest of all children only.
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command[:3])
    return decode_json(SpeedRun, answer.read_bytes(), RUN), usage.ru_maxrss * 1024


def benchmark(job: Job) -> SpeedRun:
    """Run a job in this process."""
    litert_lm.set_min_log_severity(litert_lm.LogSeverity.ERROR)
    measured = litert_lm.Benchmark(
        job.bundle,
        backend=litert_lm.Backend.CPU(thread_count=job.threads),
        prefill_tokens=job.prefill_tokens,
        decode_tokens=job.decode_tokens,
        cache_dir=job.cache,
    ).run()
    done = (measured.last_prefill_token_count, measured.last_decode_token_count)
    if done != (job.prefill_tokens, job.decode_tokens):
        raise ValueError(
            f"the runtime processed {done[0]} and generated {done[1]} tokens, not {job}"
        )
    return SpeedRun(
        prefill=measured.last_prefill_tokens_per_second,
        decode=measured.last_decode_tokens_per_second,
    )


if __name__ == "__main__":
    Path(sys.argv[2]).write_bytes(pretty_json(benchmark(decode_json(Job, sys.argv[1], "job"))))
