"""Signals of many channels: a tiny recipe of our own, as no data2vec recipe for them was released."""

from __future__ import annotations

from d2v_fast.config import CheckpointConfig, Config, EmaConfig, LogConfig, MonitorConfig, OptimConfig
from d2v_fast.data.config import LoaderConfig
from d2v_fast.masking.config import SpanMask
from d2v_fast.modalities.series.config import SeriesEmbedding, SeriesInputs
from d2v_fast.models.config import ModelConfig, TargetConfig, TransformerConfig


def series_tiny() -> Config:
    """4 channels at 100 Hz: two convolutions with a stride of 20 samples, 4 blocks of width 128.

    The method and the network are those of `speech_tiny` (instance-normalised feed-forward outputs of the last 3 of 4
    blocks, squared error, convolutions and positions shared with the teacher, spans of 5 frames at 0.65, its optimizer
    and its decay of 0.999 to 0.9999), as signals over time are. Ours, and not tuned:

    * 5 frames a second, which a heart beat or a step makes a few of; windows of 4 to 20 s, so up to 100 frames.
    * Each channel is normalised on its own: electrodes and axes differ in scale, and none should drown the others.

    For other signals set `inputs.sample_rate`, `model.embedding.channels`, and convolutions whose stride makes about 5
    to 50 frames a second.

    Returns:
        The configuration.
    """
    return Config(
        model=ModelConfig(
            embedding=SeriesEmbedding(
                channels=4, conv_layers=((64, 10, 5), (128, 4, 4)), position_depth=2, position_groups=8
            ),
            transformer=TransformerConfig(dim=128, depth=4, heads=4, ffn_dim=512, dropout=0.05, attention_dropout=0.05),
            target=TargetConfig(top_k=3),
        ),
        mask=SpanMask(length=5),
        inputs=SeriesInputs(),
        loader=LoaderConfig(batch_size=32, batch_seconds=320.0),
        optim=OptimConfig(lr=1e-3, clip_norm=1.0, warmup=0.1, last_lr=0.01),
        ema=EmaConfig(anneal_steps=400),
        checkpoint=CheckpointConfig(every=200),
        log=LogConfig(every=10, validate_every=200),
        monitor=MonitorConfig(warmup_steps=300),
        steps=400,
    )
