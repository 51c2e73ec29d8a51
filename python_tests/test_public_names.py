"""What `import d2v_fast` offers."""

import subprocess
import sys

import pytest

import d2v_fast
from d2v_fast import presets
from d2v_fast.errors import ConfigError


def test_every_public_name_is_there_and_shown():
    for name in d2v_fast.__all__:
        assert getattr(d2v_fast, name) is not None
        assert name in dir(d2v_fast)
    assert d2v_fast.Config is presets.Config
    assert d2v_fast.ArraySource.__module__ == "d2v_fast.data.source"


def test_importing_imports_nothing_heavy():
    code = "import sys, d2v_fast; print(sorted({'torch', 'numpy', 'tyro'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def test_a_preset_by_its_name():
    assert d2v_fast.preset("vision-base") == presets.vision_base()
    with pytest.raises(ConfigError, match=r"there is no preset 'vision-bas'; did you mean vision-base\?"):
        d2v_fast.preset("vision-bas")
    with pytest.raises(ConfigError, match=r"there is no preset 'x'; there are .*, speech-base, "):
        d2v_fast.preset("x")
