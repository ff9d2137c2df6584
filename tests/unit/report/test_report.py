"""The page of a release. What its texts say comes from a model, and so could be anything."""

import math
import re
import subprocess
import sys

import pytest
from msgspec import structs

from gemma3build.cli.results import figures
from gemma3build.report.charts import decades, round_numbers
from gemma3build.report.report import render_report
from gemma3build.schema.evaluation import (
    EVALUATION_FORMAT,
    Agreement,
    Check,
    Evaluation,
    Gate,
    Piqa,
    PromptAgreement,
    Sample,
    SchemeEvaluation,
    Speed,
)
from gemma3build.schema.manifest import (
    MANIFEST_FORMAT,
    ArtifactRecord,
    CheckpointRecord,
    ImageRecord,
    Manifest,
    Parameters,
)
from gemma3build.schema.scheme import NAME, Scheme
from gemma3build.util.files import FileDigest, sha256_bytes
from gemma3build.util.machine import Machine
from gemma3build.util.text import (
    Piece,
    escape_control_chars,
    megabytes,
    pieces,
    shared_start,
    significant,
)
from tests.support.pages import Reader, check_loads_nothing, check_sound

MACHINE = Machine(cpu="AMD EPYC", cores=2, memory=25_276_063_744)
HOSTILE = (
    '<script>alert("1")</script></td></table></p>--><!-- & &amp; {{ 7 * 7 }} ${x}\n\n'
    '"onload="x" \x00\x07\x1b[31m\r\u202eneerg\u2066 \ud800 <end_of_turn>\n<bos><img src=x onerror=y>'
    f" {'w' * 900} مرحبا بالعالم 你好世界。 नमस्ते"
)


def agreement(kl: float) -> Agreement:
    return Agreement(
        positions=220, top1=0.9727, kl=kl, nll=3.1416 + kl, reference_nll=3.1416, deviation=9 * kl
    )


def gate(*, kl: float, text: str, passed: bool = True) -> Gate:
    names = ("english", "german", "chinese", "arabic", "python", "numbers", "long story")
    checks = (
        Check(name="top-1 agreement", measured="0.973", allowed="≥ 0.9", passed=True),
        Check(name="KL divergence, mean", measured=f"{kl:.3g}", allowed="≤ 0.3", passed=passed),
        Check(
            name="bundle says what the model says",
            measured="4 of 4 samples are the same",
            allowed="all",
            passed=True,
        ),
    )
    samples = (
        Sample(
            name="fact",
            prompt="Water boils at",
            source=" 100 degrees Celsius.\n\nThe boiling point depends on the pressure",
            artifact=" 100 degrees Celsius.\n\nThe boiling point is the temperature",
            bundle=" 100 degrees Celsius.\n\nThe boiling point is the temperature",
            stopped=False,
        ),
        Sample(
            name="question",
            prompt="<start_of_turn>user\nWhat is the capital of France?<end_of_turn>\n",
            source="\n\nThe capital of France is Paris.",
            artifact=text,
            bundle=text.replace("Germany", "Italy"),
            stopped=True,
        ),
    )
    return Gate(
        checks=checks,
        agreement=agreement(kl),
        prompts=tuple(
            PromptAgreement(name=name, tokens=40, agreement=agreement(kl * (place + 0.3) ** 2))
            for place, name in enumerate(names)
        ),
        samples=samples,
        weights={
            "embedding": {"type": "INT8", "block_size": 0, "tensors": 1},
            "feed_forward": {"type": "INT4", "block_size": 32, "tensors": 54},
        },
        runtime={"ai-edge-litert": "2.1.0", "litert-lm-api": "0.18.1"},
        machine=MACHINE,
    )


def piqa(acc: float, questions: int = 1838, *, own: bool = False) -> Piqa:
    error = math.sqrt(acc * (1 - acc) / (questions - 1))
    return Piqa(
        questions=questions,
        of=1838,
        acc=acc,
        acc_stderr=error,
        acc_norm=acc + 0.006,
        acc_norm_stderr=error,
        own=own,
        data=sha256_bytes(b"piqa"),
        seconds=712.4,
        runtime={"lm-eval": "0.4.9", "ai-edge-litert": "2.1.0"},
        machine=MACHINE,
    )


def speed(prefill: float, decode: float, memory: int) -> Speed:
    return Speed(
        prefill=prefill,
        decode=decode,
        peak_memory=memory,
        prefill_tokens=1024,
        decode_tokens=256,
        runs=5,
        threads=2,
        runtime={"litert-lm-api": "0.18.1"},
        machine=MACHINE,
    )


def scheme(
    name: str, size: int, found: Gate, piqa: Piqa | None = None, speed: Speed | None = None
) -> SchemeEvaluation:
    def file(ending: str, size: int) -> FileDigest:
        path = f"gemma3-270m_{name}_ekv1024.{ending}"
        return FileDigest(path=path, size=size, sha256=sha256_bytes(ascii(path).encode()))

    return SchemeEvaluation(
        scheme=name,
        model=file("tflite", size),
        bundle=file("task", size + 5_212_160),
        gate=found,
        piqa=piqa,
        speed=speed,
    )


def sample(*schemes: SchemeEvaluation, model: str = "gemma3-270m") -> tuple[Manifest, Evaluation]:
    files = (FileDigest(path="config.json", size=1234, sha256=sha256_bytes(b"c")),)
    manifest = Manifest(
        format=MANIFEST_FORMAT,
        checkpoint=CheckpointRecord(
            model=model,
            base_model="google/gemma-3-270m",
            source="packages",
            revision=sha256_bytes(b"revision"),
            parameters=268_098_176,
            files=files,
            fetched=(),
        ),
        parameters=Parameters(prefill_seq_lens=(128,), kv_cache_max_len=1024),
        schemes={
            item.scheme: Scheme(
                name=item.scheme if re.fullmatch(NAME, item.scheme) else "hostile",
                suffix="q8",
                summary="int8 weights, one scale per channel",
            )
            for item in schemes
        },
        images=(
            ImageRecord(
                name="convert",
                digest=sha256_bytes(b"convert"),
                parent=f"debian sha256:{sha256_bytes(b'debian')}",
                requirements=sha256_bytes(b"r"),
            ),
        ),
        sources={"export": sha256_bytes(b"export")},
        artifacts=tuple(
            ArtifactRecord(
                path=file.path, scheme=item.scheme, size=file.size, sha256=file.sha256, facts={}
            )
            for item in schemes
            for file in (item.bundle, item.model)
        ),
        terms=("GEMMA_TERMS_OF_USE.md", "Notice"),
    )
    evaluation = Evaluation(
        format=EVALUATION_FORMAT,
        model=model,
        manifest=sha256_bytes(b"manifest"),
        reference="transformers 5.23.0, float32",
        schemes=schemes,
    )
    return manifest, evaluation


def measured() -> tuple[Manifest, Evaluation]:
    text = "\n\nThe capital of France is Paris, and of Germany Berlin."
    return sample(
        scheme(
            "dynamic_int8",
            279_283_712,
            gate(kl=0.0021, text="\n\nThe capital of France is Paris."),
            piqa(0.678),
            speed(1843.2, 64.31, 512_345_678),
        ),
        scheme(
            "dynamic_int4_block32",
            232_513_536,
            gate(kl=0.187, text=text),
            piqa(0.641),
            speed(1204.9, 71.06, 448_000_000),
        ),
        scheme(
            "dynamic_int4_block128",
            227_794_944,
            gate(kl=0.412, text=text, passed=False),
            piqa(0.612, questions=100),
            speed(1310.0, 73.5, 441_000_000),
        ),
    )


def unmeasured(text: str = "no") -> tuple[Manifest, Evaluation]:
    return sample(scheme("dynamic_int8", 279_283_712, gate(kl=0.0, text=text)))


def many() -> tuple[Manifest, Evaluation]:
    """Schemes with long names, of any divergence, speed and memory."""
    return sample(
        *(
            scheme(
                f"scheme_{'with_a_long_name_' * (i % 4)}{i}",
                10**8 + 9 * 10**6 * i,
                gate(kl=10.0 ** (1 - i), text="t"),
                piqa(0.55 + 0.01 * (i % 7)),
                speed(9 + 20_000 * i, 10.0**i / 10**6, 10**9 * (i + 1)),
            )
            for i in range(12)
        )
    )


def page(found: tuple[Manifest, Evaluation]) -> str:
    return render_report(*found).decode()


def test_the_same_page_for_the_same_measurements() -> None:
    assert render_report(*measured()).decode() == page(measured())


def test_a_page_shows_what_was_measured() -> None:
    html = page(measured())
    assert re.findall(r'<th scope="col">([^<]*[^< ])', html)[:6] == [
        "Quantization scheme",
        "Model size",
        "PIQA",
        "CPU prefill",
        "CPU decode",
        "Peak memory",
    ]
    text = Reader(html).text
    for figure in ("279.3 MB", "0.678 ± 0.011", "norm 0.684", "1,843", "64.3", "512.3 MB"):
        assert figure in text
    assert "AMD EPYC, 2 cores, 23.5 GiB of memory" in text
    assert "litert-lm-api 0.18.1" in text
    assert "gemma3build evaluate" not in text
    assert "The quality gate failed for 1 of 3 schemes: dynamic_int4_block128" in text


def test_exact_bytes_are_a_touch_away() -> None:
    assert "279,283,712 bytes" in Reader(page(measured())).of("title")


def test_a_quick_look_is_never_shown_as_a_result() -> None:
    text = Reader(page(measured())).text
    assert text.count("first 100 of 1,838") == 3  # in the table, at the chart, and how it was made
    assert "a quick look, not a result" in text


def test_questions_of_ones_own_are_never_shown_as_piqa() -> None:
    own = scheme("dynamic_int8", 9, gate(kl=0.1, text="t"), piqa(0.6, own=True))
    text = Reader(page(sample(own))).text
    assert text.count("all 1,838 own questions") == 3
    assert "all 1,838 own questions, not PIQA's: not a result" in text
    assert "(all 1,838 own questions)" in figures(own)[1]


def test_what_was_not_measured_is_a_dash_with_a_way_out() -> None:
    reader = Reader(page(unmeasured()))
    assert len(re.findall(r"not measured(?! yet)", reader.text)) == 4
    assert "gemma3build evaluate" in reader.text
    assert "Peak memory, MB" not in reader.text
    assert reader.of("role").count("img") == 1  # parity alone


def test_conditions_that_differ_name_their_schemes() -> None:
    manifest, evaluation = measured()
    first, *rest = evaluation.schemes
    assert first.speed is not None
    elsewhere = structs.replace(MACHINE, cpu="Ampere Altra")
    moved = structs.replace(first, speed=structs.replace(first.speed, machine=elsewhere))
    text = page((manifest, structs.replace(evaluation, schemes=(moved, *rest))))
    assert "<span>dynamic_int8:</span>" in text
    assert "<span>dynamic_int4_block32, dynamic_int4_block128:</span>" in text


def test_texts_of_a_model_stay_texts() -> None:
    harmless, hostile = Reader(page(unmeasured())), Reader(page(unmeasured(HOSTILE)))
    assert set(hostile.tags) == set(harmless.tags)
    assert "script" not in hostile.tags
    assert "img" not in hostile.tags
    assert not any(name.startswith("on") for _, name, _ in hostile.attributes)
    assert '<script>alert("1")</script></td></table></p>--><!-- & &amp; {{ 7 * 7 }}' in hostile.text
    assert "مرحبا بالعالم 你好世界。 नमस्ते" in hostile.text
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", hostile.text)
    for name in ("␀", "␇", "␛", "␍", "U+202E", "U+2066", "U+D800", "<end_of_turn>"):
        assert name in hostile.text
    assert "\n\n" in hostile.text


def test_names_from_anywhere_stay_text() -> None:
    manifest, evaluation = sample(
        scheme(f"$x_{HOSTILE}", 1, gate(kl=1e-3, text="t"), piqa(0.5), speed(1, 1, 1)),
        model=HOSTILE,
    )
    record = structs.replace(manifest.checkpoint, base_model=HOSTILE, source=HOSTILE)
    manifest = structs.replace(manifest, checkpoint=record, terms=("javascript:x",))
    reader = Reader(page((manifest, evaluation)))
    assert "script" not in reader.tags
    assert "javascript%3Ax" in reader.of("href")


@pytest.mark.parametrize("found", [measured(), unmeasured(HOSTILE)], ids=["measured", "hostile"])
def test_nothing_is_loaded_from_anywhere(found: tuple[Manifest, Evaluation]) -> None:
    check_loads_nothing(page(found))


@pytest.mark.parametrize("found", [measured(), unmeasured()], ids=["measured", "unmeasured"])
def test_a_page_is_sound_html(found: tuple[Manifest, Evaluation]) -> None:
    check_sound(page(found))


def test_charts_follow_the_page_in_colour() -> None:
    charts = "".join(re.findall(r"<svg.*?</svg>", page(measured()), re.DOTALL))
    assert "var(--series-2)" in charts
    assert not re.search(r"#[0-9a-f]{3,8}\b|rgb|font", charts)


@pytest.mark.parametrize(
    "kl", [0.0, 1e-12, -1e-10, 1e-9, 10.0, math.inf, math.nan], ids=lambda value: f"{value:g}"
)
def test_any_divergence_can_be_drawn(kl: float) -> None:
    text = page(
        sample(scheme("none", 9, gate(kl=kl, text="t")), scheme("fp16", 5, gate(kl=1e-3, text="t")))
    )
    first = kl * 0.3**2  # of the first prompt
    assert ("≈ 0" in text) == (first < 1e-9)
    last = kl * 6.3**2
    assert ("&gt; 100</text>" in text) == (not last < 100)


def test_many_schemes_can_be_told_apart() -> None:
    html = page(many())
    assert Reader(html).text.count(many()[1].schemes[-1].scheme) >= 6
    (legend, _) = re.findall(r'<ul class="legend">(.*?)</ul>', html, re.DOTALL)
    assert len(set(re.findall(r'd="(.*?)" fill="(.*?)"', legend))) == 12


def test_an_idle_build_does_not_import_jinja() -> None:
    code = (
        "import sys, gemma3build.report.report; print({'jinja2', 'markupsafe'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_tokens_and_unseen_characters_are_named() -> None:
    assert pieces("a<bos>\x00b\n") == (
        Piece("a", special=False),
        Piece("<bos>", special=True),
        Piece("␀", special=True),
        Piece("b\n", special=False),
    )
    assert pieces("<b>") == (Piece("<b>", special=False),)
    assert escape_control_chars("क्\u200dष") == "क्\u200dष"
    assert escape_control_chars("\u202e\ufeff") == "U+202EU+FEFF"


def test_the_first_difference_is_found() -> None:
    assert shared_start("Paris.", "Paris, France") == ("Paris", ".")
    assert shared_start("", "x") == ("", "")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.0123, "0.012"),
        (3.14e-7, "3.1·10⁻⁷"),
        (9.99, "10"),
        (12.3, "12"),
        (1.5, "1.5"),
        (math.inf, "inf"),
    ],
)
def test_figures_of_any_size_can_be_read(value: float, text: str) -> None:
    assert significant(value) == text


def test_sizes_are_in_megabytes_of_a_million() -> None:
    assert megabytes(279_283_712) == "279.3 MB"
    assert megabytes(1_073_900_000) == "1,074 MB"


@pytest.mark.parametrize(
    ("low", "high", "finest", "numbers"),
    [
        (225.3, 281.9, 1, [240, 260, 280]),
        (0, 5_400, 1, [0, 2_000, 4_000]),
        (8.0, 10.0, 1, [8, 9, 10]),
        (0.59, 0.69, 0.01, [0.6, 0.62, 0.64, 0.66, 0.68]),
        (0.5, 0.51, 0.01, [0.5, 0.51]),
    ],
)
def test_an_axis_has_few_and_round_numbers(
    low: float, high: float, finest: float, numbers: list[float]
) -> None:
    assert round_numbers(low, high, finest) == pytest.approx(numbers)


def test_a_logarithmic_axis_is_even_and_says_what_is_outside() -> None:
    assert decades([-2.5, -0.1]) == ({-3: "10⁻³", -2: "10⁻²", -1: "10⁻¹", 0: "1"}, [])
    labels = ["10⁻⁸", "10⁻⁶", "10⁻⁴", "10⁻²", "1", "≈ 0", "> 100"]
    ticks, breaks = decades([-math.inf, -6.5, 0.0, math.inf])
    assert list(ticks.values()) == labels
    assert (min(ticks), max(ticks), breaks) == (-10, 2, [-9, 1])
