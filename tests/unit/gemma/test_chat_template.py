import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemma3build.engine.inputs import LocalCheckpoint
from gemma3build.gemma.checkpoint import configured, read_chat_template
from gemma3build.schema.step import StepError
from tests.support.checkpoint import write_checkpoint


@pytest.mark.parametrize(
    ("config", "template"),
    [
        ({"chat_template": "{{ messages }}"}, "{{ messages }}"),
        ({}, ""),
        ({"chat_template": None}, ""),
        (
            {
                "chat_template": [
                    {"name": "tool_use", "template": "tools"},
                    {"name": "default", "template": "text"},
                ]
            },
            "text",
        ),
    ],
)
def test_a_template_is_found_in_the_tokenizers_configuration(
    config: dict[str, Any], template: str, tmp_path: Path
) -> None:
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(config))
    assert read_chat_template(path) == template


@pytest.mark.parametrize("text", ["{", "[]", '{"chat_template": 3}', '{"chat_template": [3]}'])
def test_a_configuration_that_cannot_be_read_is_rejected(text: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer_config.json"
    path.write_text(text)
    with pytest.raises(StepError, match="tokenizer_config.json has no chat template"):
        read_chat_template(path)


def test_a_template_that_is_no_text_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "chat_template.jinja"
    path.write_bytes(b"\xff")
    with pytest.raises(StepError, match="UnicodeDecodeError"):
        read_chat_template(path)


values = st.recursive(
    st.none() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(("chat_template", "name", "template")), inner)
    ),
)


@given(values)
def test_any_configuration_gives_a_text_or_a_known_error(config: Any) -> None:
    try:
        assert isinstance(configured(config), str)
    except (AttributeError, TypeError, KeyError):
        return


def test_a_checkpoint_has_one_file_with_a_template(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "tiny")
    names = {file.path for file in LocalCheckpoint(folder).material.files}
    (folder / "tokenizer_config.json").write_text("{}")
    configuration = {file.path for file in LocalCheckpoint(folder).material.files}
    (folder / "chat_template.jinja").write_text("")
    jinja = {file.path for file in LocalCheckpoint(folder).material.files}
    assert configuration - names == {"tokenizer_config.json"}
    assert jinja - names == {"chat_template.jinja"}
