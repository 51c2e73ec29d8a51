"""Results of evaluations as tables."""

from __future__ import annotations

import json
import re

from d2v_fast.report.results import tables


def cells(html):
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", html)]


def test_objects_lists_and_values():
    scores = [
        {"network": "student", "values": {"knn": 0.912345}, "interval": [0.90001, 0.95]},
        {"network": "initial", "values": {"linear": 0.5}},
    ]
    made = tables({"samples": 12, "metrics": {"f1": 1 / 3, "none": None}, "scores": scores}, title="<run>")
    assert made.count("<table>") == 2
    assert "<caption>&lt;run&gt;, scores</caption>" in made
    assert cells(made) == [
        ["what", "value"],
        ["samples", "12"],
        ["metrics.f1", "0.3333"],
        ["metrics.none", "null"],
        ["network", "values.knn", "interval", "values.linear"],
        ["student", "0.9123", "[0.9, 0.95]", "—"],
        ["initial", "—", "—", "0.5"],
    ]


def test_long_lists_are_cut_and_say_so():
    made = tables({"scores": [{"a": i, "b": i} for i in range(1000)]}, title="x")
    assert len(cells(made)) == 302
    assert cells(made)[-1] == ["700 more are left out", ""]


def test_depth_does_no_harm():
    deep = json.loads('{"a":' * 400 + "[" * 400 + "]" * 400 + "}" * 400)
    assert "…" in tables(deep, title="x")
    assert "…" in tables({"a": deep["a"], "b": [[[[[[[[[[1]]]]]]]]]]}, title="x")


def test_nothing_is_no_table():
    assert tables({}, title="x") == ""
