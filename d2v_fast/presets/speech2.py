"""data2vec 2.0 on speech: the two released recipes."""

from __future__ import annotations

from dataclasses import replace

from d2v_fast.config import Config, EmaConfig, MonitorConfig, OptimConfig, PrecisionConfig
from d2v_fast.data.config import LoaderConfig
from d2v_fast.masking.config import FixedSpanMask
from d2v_fast.modalities.speech.config import SpeechEmbedding, SpeechInputs
from d2v_fast.models.config import DecoderConfig, ModelConfig, TeacherConfig, TransformerConfig


def speech2_base() -> Config:
    """Base on 16 kHz speech: 93,783,308 parameters, 400,000 steps of 500 s of sound, each clip in 8 masked views.

    From fairseq's `config/v2/base_audio_only_task.yaml`, unless said:

    * convolutions and positions as in `speech_base`, and ALiBi with a learned factor for each head
      (`use_alibi_encoder`, `learned_alibi_scale` and `learned_alibi_scale_per_head`).
    * LayerNorm, then 12 post-norm blocks and no prenet; width 768, 12 heads, feed-forward 3072, eps 1e-5; dropout 0.1,
      also on the tokens (`prenet_dropout`), attention dropout 0.1, layer drop 0.05.
    * Masks: 50 % in spans of 5, adjusted by 0.05; 8 views (`clone_batch`). Masks here are made for the window that is
      used and hide exactly half of it; the released code crops masks of whole clips and shows some hidden frames.
    * Decoder: 4 convolutions of 7 frames, 384 channels in 16 groups; noise 0.01, input dropout 0.1.
    * Targets: K = 8, feed-forward outputs, instance norm. Loss: squared error, summed over channels / sqrt(C).
    * Teacher: 0.999 to 0.99999 over 75,000 steps; positions and ALiBi are averaged too (`ema_encoder_only: false`).
    * Adam betas (0.9, 0.98), eps 1e-6, weight decay 0.01 on everything, no clipping, lr 7.5e-4, cosine to 0 after
      8,000 steps of warm-up.
    * Clips of 2 to 20 s, normalised whole. Batch: 1.0 M samples x 8 GPUs = 500 s. Here 125 s x 4 micro-batches on one
      80 GB GPU (an estimate of what fits, not a measurement: 8 views of half of 125 s, and the teacher's pass).
    * Monitors: judged after 5,000 steps; the run stops below a target deviation of 0.1 (`min_target_var`).

    Returns:
        The configuration.
    """
    return Config(
        model=ModelConfig(
            embedding=SpeechEmbedding(alibi=True),
            transformer=TransformerConfig(layer_drop=0.05),
            head=DecoderConfig(),
            teacher=TeacherConfig(averages="transformer"),
        ),
        mask=FixedSpanMask(views=8),
        inputs=SpeechInputs(),
        # 125 s hold at most 62 clips of 2 s, so the seconds alone decide.
        loader=LoaderConfig(batch_size=62, batch_seconds=125.0, accumulation=4),
        optim=OptimConfig(lr=7.5e-4, warmup=8000 / 400_000),
        ema=EmaConfig(end=0.99999, anneal_steps=75_000),
        precision=PrecisionConfig(autocast="auto"),
        monitor=MonitorConfig(warmup_steps=5000, abort_std=0.1),
    )


def speech2_large() -> Config:
    """Large on speech (the released one saw Libri-light): 600,000 steps of 960 s, each clip in 12 masked views.

    From fairseq's `config/v2/large_audio_only_task.yaml`; what is not named here is `speech2_base`'s:

    * a prenet of 8 blocks and 16 shared ones (depth 24), width 1024, 16 heads, feed-forward 4096, no layer drop; K = 16
      of the 16.
    * Masks: 55 %, adjusted by 0.1; 12 views. Decoder: 768 channels.
    * Teacher: 0.9997 to 1 over 300,000 steps, and from there it stands still.
    * lr 4e-4, 10,000 steps of warm-up, clipping at 1.
    * Batch: 320,000 samples x 48 GPUs = 960 s. Here 60 s x 16 micro-batches on one 80 GB GPU (an estimate).

    Returns:
        The configuration.
    """
    base = speech2_base()
    return replace(
        base,
        model=replace(
            base.model,
            transformer=replace(
                base.model.transformer, dim=1024, depth=24, prenet=8, heads=16, ffn_dim=4096, layer_drop=0.0
            ),
            head=DecoderConfig(dim=768),
            target=replace(base.model.target, top_k=16),
        ),
        mask=FixedSpanMask(ratio=0.55, adjust=0.1, views=12),
        loader=replace(base.loader, batch_size=30, batch_seconds=60.0, accumulation=16),
        optim=replace(base.optim, lr=4e-4, warmup=10_000 / 600_000, clip_norm=1.0),
        ema=EmaConfig(start=0.9997, end=1.0, anneal_steps=300_000),
        steps=600_000,
    )
