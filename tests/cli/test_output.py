"""What `Output` prints as JSON."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifeline.cli.output import Output

_DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
)


def _printed(capsys: pytest.CaptureFixture[str], document: object, *, line: bool = False) -> str:
    output = Output(as_json=True)
    if line:
        output.line(document)
    else:
        output.show(text=list, document=lambda: document)
    return capsys.readouterr().out


@given(document=_DOCUMENTS)
def test_a_document_is_read_back_as_it_was(document: object) -> None:
    texts: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lifeline.cli.output._write", texts.append)
        Output(as_json=True).show(text=list, document=lambda: document)
        Output(as_json=True).line(document)
    assert [json.loads(text) for text in texts] == [document, document]
    assert "\n" not in texts[1]
    assert all(char.isprintable() or char == "\n" for text in texts for char in text)


def test_a_column_takes_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    text = _printed(capsys, {"user": "u", "item_id": list(range(1_000)), "rows": [{"a": [[1, 2], [3, 4]]}], "none": {}})
    assert text.splitlines()[:2] == ["{", '  "user": "u",']
    assert text.splitlines()[3:] == [
        '  "rows": [',
        "    {",
        '      "a": [[1, 2], [3, 4]]',
        "    }",
        "  ],",
        '  "none": {}',
        "}",
    ]


def test_a_line_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert _printed(capsys, {"user": "a\n\x1b[31m", "n": [1, 2]}, line=True) == '{"user":"a\\n\\u001b[31m","n":[1,2]}\n'
