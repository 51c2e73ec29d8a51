"""The record in the document and the limits of traffic: what is wrong is found and named."""

from __future__ import annotations

import documented
import numpy as np
import pytest
from limits import check_traffic
from ptx import Memory, launch, parse

TEXT = """# Kernels

<!-- record: one, compiler 1.0 -->

| kernel | registers | warps |
| --- | --- | --- |
| copy | 30 / 32 | 64 |

More.
"""


@pytest.fixture
def document(tmp_path, monkeypatch):
    path = tmp_path / "kernels.md"
    path.write_text(TEXT)
    monkeypatch.setattr(documented, "DOCUMENT", path)
    monkeypatch.delenv("D2V_FAST_RECORD", raising=False)
    return path


def test_cells_are_compared_for_the_same_compiler(document):
    documented.check("one", "copy", {"registers": "30 / 32", "warps": "64"}, "compiler 1.0")
    with pytest.raises(AssertionError, match="'copy': registers: found 31, written 30 / 32"):
        documented.check("one", "copy", {"registers": "31"}, "compiler 1.0")
    with pytest.raises(AssertionError, match="no row 'move' in 'one'"):
        documented.check("one", "move", {}, "compiler 1.0")
    documented.check("one", "copy", {"registers": "31"}, "compiler 2.0")
    with pytest.raises(LookupError, match="no table under <!-- record: two, "):
        documented.check("two", "copy", {}, "compiler 1.0")
    assert document.read_text() == TEXT


def test_records_are_written_anew_when_asked(document, monkeypatch):
    monkeypatch.setenv("D2V_FAST_RECORD", "1")
    documented.check("one", "copy", {"registers": "31"}, "compiler 1.0")
    documented.check("one", "move", {"warps": "48"}, "compiler 1.0")
    assert document.read_text() == TEXT.replace("| 30 / 32 | 64 |", "| 31 | 64 |\n| move | - | 48 |")


def test_cell():
    assert documented.cell([64, 64, 64]) == "64"
    assert documented.cell([30, 32, 32]) == "30 / 32 / 32"


COPY = """
.visible .entry k(.param .u64 from, .param .u64 to)
{
    .reg .b32 %r<2>; .reg .b64 %rd<3>; .reg .f32 %f<2>;
    ld.param.u64 %rd0, [from];
    ld.param.u64 %rd1, [to];
    mov.u32 %r0, %tid.x;
    mul.wide.u32 %rd2, %r0, 4;
    add.u64 %rd0, %rd0, %rd2;
    add.u64 %rd1, %rd1, %rd2;
    ld.global.f32 %f0, [%rd0];
    st.global.f32 [%rd1], %f0;
    ret;
}"""


def test_more_traffic_than_the_limits_is_refused():
    def moved(text):
        memory = Memory(1 << 14)
        source = memory.put(np.ones(256, np.float32), "from")
        return launch(parse(text)["k"], 1, 64, [source, memory.reserve(256, np.float32, "to")], memory)

    ratios = check_traffic(moved(COPY), 512)
    assert ratios == (1, 1, 1)
    assert ratios.cells() == {"DRAM": "1.000", "sectors": "1.000", "requests": "1.000"}
    with pytest.raises(AssertionError, match=r"dram: 1\.024 times the floor; most is lost in '.*global"):
        check_traffic(moved(COPY), 500)
    with pytest.raises(AssertionError, match=r"dram: 0\.500 times the floor"):  # a floor that is none
        check_traffic(moved(COPY), 1024)
    twice = COPY.replace("ld.global.f32 %f0, [%rd0];", "ld.global.f32 %f0, [%rd0];" * 2)
    with pytest.raises(AssertionError, match=r"sectors: 1\.500 times the floor; most is lost in 'ld\.global"):
        check_traffic(moved(twice), 512)
    with pytest.raises(AssertionError, match=r"requests: 1\.500"):
        check_traffic(moved(twice), 512, 768, 512)
