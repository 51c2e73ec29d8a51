import pytest
import torch
import torch.nn.functional as F

from d2v_fast.modules.head import RegressionHead


def test_head_widths_and_activations():
    torch.manual_seed(0)
    assert [tuple(p.shape) for p in RegressionHead(4, 3).parameters()] == [(8, 4), (8,), (8, 8), (8,), (4, 8), (4,)]
    head = RegressionHead(4, 2)
    x = torch.randn(5, 4)
    torch.testing.assert_close(head(x), head.layers[1](F.gelu(head.layers[0](x))))
    single = RegressionHead(4, 1)
    torch.testing.assert_close(single(x), single.layers[0](x))
    with pytest.raises(ValueError, match=r"head.layers must be at least 1, got 0"):
        RegressionHead(4, 0)
