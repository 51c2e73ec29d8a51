"""benchmarks/quality_text.py: labels that the text does not give away, and parts that share nothing."""

import importlib
import sysconfig
from pathlib import Path

import numpy as np
import pytest

SENSES = """\
Abomasum \\Ab`o*ma"sum\\, n. [NL.]
   (Anat.) The fourth or digestive stomach of a ruminant, which
   leads from the third stomach {omasum}. See {Ruminantia}.
   [1913 Webster]

Anchor \\An"chor\\, n.
   1. A iron instrument which is attached to a ship by a cable.
      [1913 Webster]

   2. (Naut.) (a) An iron instrument that is cast overboard and
      lays hold of the earth and holds the ship. --Totten.
      [1913 Webster]

   3. (Law) A matter of no field that is asked for, whatever it may be.

   4. (Bot.) Too short.
"""


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
        return importlib.import_module("quality_text")


def test_definitions_have_a_field_and_do_not_name_it(script):
    assert script.definitions(SENSES) == [
        (
            "anatomy",
            "The fourth or digestive stomach of a ruminant, which leads from the third stomach omasum. See Ruminantia.",
        ),
        ("the sea", "An iron instrument that is cast overboard and lays hold of the earth and holds the ship."),
    ]


def test_parts_share_no_passage_and_the_test_texts_are_not_pretrained_on(script):
    found = script.docstrings(Path(sysconfig.get_path("stdlib")) / "asyncio")
    files = ("base_events", "events", "streams", "tasks")
    task = script._task(found, ["A topic."], files, "file", "docstrings", (8, 3))
    passages = [{passage.tobytes() for passage in part.inputs} for part in (task.train, task.test)]
    assert [len(one) for one in passages] == [len(task.train), len(task.test)]
    assert not passages[0] & passages[1]
    begin, end = (task.source.tokenizer.token_to_id(name) for name in ("<s>", "</s>"))
    for part, most in ((task.train, 8), (task.test, 3)):
        assert all(passage[0] == begin and len(passage) == script.PASSAGE for passage in part.inputs)
        assert np.bincount(part.labels, minlength=4).max() == most
        assert len(set(part.labels.tolist())) == len(task.classes) == 4
    tokens = task.source.tokens
    starts = np.flatnonzero(np.concatenate([[end], tokens[:-1]]) == end)
    corpus = {tokens[i : i + script.PASSAGE - 1].tobytes() for i in starts}
    known, unknown = ({p[1:].astype(tokens.dtype).tobytes() for p in part.inputs} for part in (task.train, task.test))
    assert not corpus & unknown
    assert corpus >= known


def test_without_the_dictionary_its_package_is_named(script, monkeypatch, tmp_path):
    monkeypatch.setattr(script, "DICTIONARY", tmp_path / "none")
    with pytest.raises(script.DemoError, match="apt-get install dict-gcide"):
        script.dictionary()
