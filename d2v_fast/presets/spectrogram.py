"""Spectrograms: a tiny recipe of our own, as no data2vec 1.0 recipe for them was released."""

from __future__ import annotations

from d2v_fast.config import CheckpointConfig, Config, EmaConfig, LogConfig, MonitorConfig, OptimConfig
from d2v_fast.data.config import LoaderConfig
from d2v_fast.masking.config import InverseBlockMask
from d2v_fast.modalities.spectrogram.config import SpectrogramEmbedding, SpectrogramInputs
from d2v_fast.models.config import ModelConfig, TargetConfig, TeacherConfig, TransformerConfig


def spectrogram_tiny() -> Config:
    """80 mel bands in patches of 16 x 16, 4 blocks of width 128; windows of 1 to 4 s.

    The network, targets, optimizer and the teacher's decay are those of `vision_tiny`, as patches on a grid are. Ours,
    and not tuned:

    * A patch is 16 frames of 10 ms x 16 of 80 bands: 5 patches for each 160 ms, 25 x 5 for 4 s.
    * Inverse blocks as data2vec 2.0 has them for pictures (section 3.2): 80 % masked, blocks of 3 x 3 are kept.
    * Width 128, as in `speech_tiny`: sound has more in it than digits of 8 x 8 pixels.

    Returns:
        The configuration.
    """
    return Config(
        model=ModelConfig(
            embedding=SpectrogramEmbedding(max_frames=512),
            transformer=TransformerConfig(
                dim=128,
                depth=4,
                heads=4,
                ffn_dim=512,
                norm_first=True,
                norm_eps=1e-6,
                key_bias=False,
                dropout=0.0,
                attention_dropout=0.0,
            ),
            target=TargetConfig(top_k=3, feature="block"),
            teacher=TeacherConfig(averages="all"),
        ),
        mask=InverseBlockMask(),
        inputs=SpectrogramInputs(max_seconds=4.0),
        loader=LoaderConfig(batch_size=32, batch_seconds=64.0),
        optim=OptimConfig(
            lr=2e-3,
            betas=(0.9, 0.999),
            eps=1e-8,
            weight_decay=0.05,
            decay_vectors=False,
            clip_norm=3.0,
            warmup=0.1,
            last_lr=0.01,
        ),
        ema=EmaConfig(start=0.99, end=0.999, anneal_steps=1800),
        checkpoint=CheckpointConfig(every=600),
        log=LogConfig(every=30, validate_every=300),
        monitor=MonitorConfig(warmup_steps=300),
        steps=1800,
    )
