from pathlib import Path

import pytest
from msgspec import structs

from gemma3build.engine.runner import source_digests
from gemma3build.errors import ErrorCode
from gemma3build.pins.config import find_model, load_schemes
from gemma3build.pins.lockfile import LockedModel, read_models_lock
from gemma3build.plan import resources
from gemma3build.plan.build import plan_build
from gemma3build.plan.evaluation import plan_evaluation
from gemma3build.plan.graph import CheckpointSource, ExternalInput, Plan, StepOutput
from gemma3build.plan.sources import imports, step_sources
from gemma3build.schema.manifest import Parameters
from gemma3build.util.files import FileDigest
from gemma3build.workflows.request import BuildRequest, prepare_build
from tests.support.errors import raises

SCHEMES = load_schemes()
SHAPE = find_model("gemma3-270m").shape
PARAMETERS = Parameters(prefill_seq_lens=(128,), kv_cache_max_len=1024)


def plan(source: CheckpointSource, *names: str, parameters: Parameters = PARAMETERS) -> Plan:
    return plan_build(
        model="m",
        base_model="",
        shape=SHAPE,
        context=32768,
        pinned=True,
        source=source,
        parameters=parameters,
        schemes=tuple(SCHEMES[name] for name in names),
    )


MEASURING = {"convert.export_score", "harness.piqa", "evaluate.speed"}
PACKAGES = CheckpointSource(locked=read_models_lock().models["gemma3-270m"])


def test_the_default_plan_exports_once_and_quantizes_three_times() -> None:
    found = prepare_build(BuildRequest(model="gemma3-270m")).plan
    assert [(step.name, step.image, step.network) for step in found.steps] == [
        ("import", "fetch", False),
        ("check", "fetch", False),
        ("export", "convert", False),
        ("reference", "convert", False),
        ("calibrate", "convert", False),
        ("quantize-dynamic_int8", "convert", False),
        ("bundle-dynamic_int8", "bundle", False),
        ("package-dynamic_int8", "litertlm", False),
        ("gate-dynamic_int8", "evaluate", False),
        ("quantize-dynamic_int4_block32", "convert", False),
        ("bundle-dynamic_int4_block32", "bundle", False),
        ("package-dynamic_int4_block32", "litertlm", False),
        ("gate-dynamic_int4_block32", "evaluate", False),
        ("quantize-dynamic_int4_block128", "convert", False),
        ("bundle-dynamic_int4_block128", "bundle", False),
        ("package-dynamic_int4_block128", "litertlm", False),
        ("gate-dynamic_int4_block128", "evaluate", False),
    ]
    assert [artifact.file_name for artifact in found.artifacts] == [
        f"gemma3-270m_{suffix}_ekv1024.{kind}"
        for suffix in ("q8", "q4_block32", "q4_block128")
        for kind in ("tflite", "task", "litertlm")
    ]


def test_a_plan_is_a_function_of_its_arguments() -> None:
    assert plan(PACKAGES, "none", "fp16") == plan(PACKAGES, "none", "fp16")


def test_the_float_scheme_is_the_export_itself() -> None:
    found = plan(PACKAGES, "none")
    names = [step.name for step in found.steps]
    ends = ["bundle-none", "package-none", "gate-none"]
    assert names == ["import", "check", "export", "reference", *ends]
    assert found.artifacts[0].source == StepOutput(step="export", path="model_f32.tflite")
    assert found.artifacts[0].file_name == "m_f32_ekv1024.tflite"


def test_steps_come_after_what_they_need() -> None:
    done: set[str] = set()
    for step in plan(PACKAGES, *SCHEMES).steps:
        assert step.needs <= done
        done.add(step.name)
    assert (
        "check"
        in next(step for step in plan(PACKAGES, "none").steps if step.name == "export").needs
    )


def test_a_checkpoint_of_the_hub_is_fetched_by_the_one_step_with_a_network() -> None:
    files = (FileDigest(path="config.json", size=9, sha256="0" * 64),)
    locked = LockedModel(source="google/gemma-3-1b-it", revision="a" * 40, files=files)
    first, *others = plan(CheckpointSource(locked=locked), "dynamic_int8").steps
    assert (first.name, first.network) == ("fetch", True)
    assert first.parameters["files"] == [{"path": "config.json", "size": 9, "sha256": "0" * 64}]
    assert not any(step.network for step in others)


def test_a_checkpoint_of_the_user_is_read_in_place() -> None:
    files = tuple(
        FileDigest(path=name, size=1, sha256="0" * 64)
        for name in ("config.json", "tokenizer.model")
    )
    material = ExternalInput(name="checkpoint", files=files)
    found = plan(CheckpointSource(checkpoint=material), "dynamic_int8")
    assert [step.name for step in found.steps][:2] == ["check", "export"]
    assert found.tokenizer == ExternalInput(name="checkpoint", files=files[1:])


def test_only_the_packages_read_a_chat_template() -> None:
    names = ("chat_template.jinja", "config.json", "tokenizer.model", "tokenizer_config.json")
    files = tuple(FileDigest(path=name, size=1, sha256="0" * 64) for name in names)
    locked = LockedModel(source="google/gemma-3-1b-it", revision="a" * 40, files=files)
    local = ExternalInput(name="checkpoint", files=files)
    for source in (CheckpointSource(locked=locked), CheckpointSource(checkpoint=local)):
        for step in plan(source, "none", "dynamic_int8").steps:
            for name, item in step.inputs.items():
                if isinstance(item, StepOutput):
                    read = item.select(files) if item.step == "fetch" else ()
                else:
                    read = item.files
                templates = {file.path for file in read} & {names[0], names[3]}
                expected = {names[0]} if name == "chat_template" else set()
                assert templates == expected, step.name
            assert ("chat_template" in step.inputs) == (step.module == "litertlm.package")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            Parameters(prefill_seq_lens=(1024,), kv_cache_max_len=1024),
            "leave no room for an answer",
        ),
        (Parameters(prefill_seq_lens=(8,), kv_cache_max_len=40000), "the model's context has"),
        (
            Parameters(prefill_seq_lens=(), kv_cache_max_len=1024),
            "they must be positive, and each given once",
        ),
        (
            Parameters(prefill_seq_lens=(8, 8), kv_cache_max_len=1024),
            "they must be positive, and each given once",
        ),
        (
            Parameters(prefill_seq_lens=(0,), kv_cache_max_len=1024),
            "they must be positive, and each given once",
        ),
    ],
)
def test_parameters_that_do_not_go_together_are_refused(
    parameters: Parameters, message: str
) -> None:
    with raises(ErrorCode.REQUEST, match=message):
        plan(PACKAGES, "none", parameters=parameters)


def test_a_request_needs_a_scheme_and_a_tokenizer_needs_a_checkpoint() -> None:
    with raises(ErrorCode.REQUEST, match="no scheme was given"):
        plan(PACKAGES)
    with raises(ErrorCode.REQUEST, match="cannot be used without `--checkpoint`"):
        prepare_build(BuildRequest(model="gemma3-270m", tokenizer=Path("x")))


def test_a_larger_model_needs_more_of_everything() -> None:
    small = plan(PACKAGES, *SCHEMES).steps
    large = plan_build(
        model="m",
        base_model="",
        shape=find_model("gemma3-1b-it").shape,
        context=32768,
        pinned=True,
        source=PACKAGES,
        parameters=PARAMETERS,
        schemes=tuple(SCHEMES.values()),
    ).steps
    for one, other in zip(small, large, strict=True):
        # The packager copies the model in pieces, whatever its size.
        assert other.memory > one.memory or one.module == "litertlm.package"
        assert other.disk >= one.disk


def test_weights_that_are_expanded_to_compute_are_estimated() -> None:
    def needs(name: str) -> dict[str, int]:
        measuring = plan_evaluation(
            plan(PACKAGES, name),
            schemes=(SCHEMES[name],),
            models={name: material("m.tflite")},
            bundles={name: material("m.task")},
            questions=material("valid.jsonl"),
            own=False,
            limit=None,
        )
        steps = (*plan(PACKAGES, name).steps, *measuring)
        return {step.name.removesuffix(f"-{name}"): step.memory for step in steps}

    more, less = needs("weight_only_int8"), needs("upstream_int8")
    size = SHAPE.parameters * resources.FLOAT32
    assert {step: more[step] - less[step] for step in more if more[step] != less[step]} == {
        "gate": size,
        "piqa": size,
        "speed": size,
    }
    assert resources.expanded(SHAPE, SCHEMES["fp16"]) == size
    assert resources.expanded(SHAPE, SCHEMES["none"]) == 0


def test_lean_export_is_estimated_below_the_normal_one() -> None:
    normal = structs.replace(PARAMETERS, lean=False)
    lean_step, normal_step = (
        next(step for step in plan(PACKAGES, "none", parameters=p).steps if step.name == "export")
        for p in (PARAMETERS, normal)
    )
    assert lean_step.memory < normal_step.memory


def test_a_step_depends_on_the_source_that_it_imports_and_no_other() -> None:
    texts = {
        "gemma3build.steps.a": "from gemma3build.util import x\nimport os",
        "gemma3build.steps.b": "from gemma3build.util.y import z",
        "gemma3build.steps.__main__": "import gemma3build.util.main",
        "gemma3build.util.x": "import gemma3build.util.y",
        "gemma3build.util.y": "",
        "gemma3build.util.main": "",
    }
    assert step_sources("b", texts) == (
        "gemma3build.steps.__main__",
        "gemma3build.steps.b",
        "gemma3build.util.main",
        "gemma3build.util.y",
    )
    assert "gemma3build.util.x" in step_sources("a", texts)
    assert imports("from gemma3build.util import x", texts) == {"gemma3build.util.x"}


def test_every_step_of_a_plan_has_a_source_digest() -> None:
    digests = source_digests()
    modules = {step.module for step in plan(PACKAGES, *SCHEMES).steps} | {"fetch.hub"}
    assert modules | MEASURING == set(digests)
    assert len(set(digests.values())) == len(digests)


def material(path: str) -> ExternalInput:
    return ExternalInput(name=path, files=(FileDigest(path=path, size=9, sha256="0" * 64),))


def test_an_evaluation_asks_every_scheme_and_measures_each_bundle_again() -> None:
    schemes = tuple(SCHEMES[name] for name in ("none", "dynamic_int4_block32"))
    models, bundles = (
        {scheme.name: material(f"{scheme.name}.{kind}") for scheme in schemes}
        for kind in ("tflite", "task")
    )
    questions = ExternalInput(name="piqa", files=())
    steps = plan_evaluation(
        plan(PACKAGES, "none"),
        schemes=schemes,
        models=models,
        bundles=bundles,
        questions=questions,
        own=False,
        limit=5,
    )
    assert [(step.name, step.fresh) for step in steps] == [
        ("import", False),
        ("export-score", False),
        ("calibrate", False),
        ("piqa-none", False),
        ("quantize-score-dynamic_int4_block32", False),
        ("piqa-dynamic_int4_block32", False),
        ("speed-none", True),
        ("speed-dynamic_int4_block32", True),
    ]
    done: set[str] = set()
    for step in steps:
        assert step.needs <= done
        done.add(step.name)
    # What is asked is compared with the file of the release, and what is run is that file itself.
    inputs = {step.name: step.inputs for step in steps}
    for scheme in schemes:
        assert inputs[f"piqa-{scheme.name}"]["artifact"] == models[scheme.name]
        assert inputs[f"speed-{scheme.name}"]["bundle"] == bundles[scheme.name]
