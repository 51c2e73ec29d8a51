"""Speech: the released LibriSpeech recipe, and a large model derived from it."""

from __future__ import annotations

from dataclasses import replace

from d2v_fast.config import (
    Config,
    MonitorConfig,
    OptimConfig,
    PrecisionConfig,
)
from d2v_fast.data.config import LoaderConfig
from d2v_fast.masking.config import SpanMask
from d2v_fast.modalities.speech.config import SpeechEmbedding, SpeechInputs
from d2v_fast.models.config import ModelConfig, TransformerConfig


def speech_base() -> Config:
    """Data2vec Base on 16 kHz speech: 93,754,880 parameters, 400,000 steps of 63 minutes of sound.

    From fairseq's `config/audio/pretraining/base_librispeech.yaml`, unless said:

    * convolutions (512,10,5), 4 x (512,3,2), 2 x (512,2,2), LayerNorm in each, no bias: class defaults of wav2vec 2.0
      and `extractor_mode: layer_norm`; positions by 5 convolutions of 95 // 5 = 19 frames (`pos_conv_depth`,
      `conv_pos`), 16 groups.
    * 12 post-norm blocks, width 768, 12 heads, feed-forward 3072, eps 1e-5: class defaults. Dropout 0.1, attention
      dropout 0.1, activation dropout 0, layer drop 0.05. `feature_grad_mult: 1.0`.
    * Targets: K = 8, feed-forward outputs, instance norm. Loss: squared error, summed over channels / sqrt(C).
    * Masks: 0.65 in spans of 10, at least one span (code default). The code then thins the masks of a batch to equal
      counts (45.6 % of the frames for 12 rows of 20 s); masks here depend on nothing but their own sample, so 49.0 %
      stay masked.
    * Teacher: 0.999 to 0.9999 over 30,000 steps, context network only (`ema_layers_only: true`; the configuration
      stored in the released base checkpoint says false).
    * Adam betas (0.9, 0.98), eps 1e-6, weight decay 0.01 on everything, no clipping, lr 5e-4; tri-stage 3 / 90 / 7 %
      from and to 1 % of it. The code decays exponentially in the last stage; the paper says linearly.
    * 400,000 steps; clips of 2 to 20 s (32,000 to 320,000 samples), normalised whole.
    * Batch: 3.8 M samples x 16 GPUs = 3,800 s = 63.3 minutes. Here 475 s x 8 micro-batches on one 80 GB GPU (an
      estimate of what fits, not a measurement; `presets.scale_to_batch` has an argument for smaller ones).
    * Monitors: judged after 5,000 steps; the run stops below a target deviation of 0.1 (`min_target_var`), and
      predictions warn below 0.01 (`min_pred_var`; the code stops there too).

    Returns:
        The configuration.
    """
    return Config(
        model=ModelConfig(
            embedding=SpeechEmbedding(),
            transformer=TransformerConfig(
                layer_drop=0.05,
            ),
        ),
        mask=SpanMask(),
        inputs=SpeechInputs(),
        # 475 s hold at most 237 clips of 2 s, so the seconds alone decide.
        loader=LoaderConfig(batch_size=237, batch_seconds=475.0, accumulation=8),
        optim=OptimConfig(
            schedule="tri_stage",
            hold=0.90,
            first_lr=0.01,
            last_lr=0.01,
        ),
        precision=PrecisionConfig(autocast="auto"),
        monitor=MonitorConfig(warmup_steps=5000, abort_std=0.1),
    )


def speech_large() -> Config:
    """Data2vec Large on speech: derived, since no pretraining configuration of this size was ever released.

    Everything is `speech_base`, but for

    * the model: 24 blocks, width 1024, 16 heads, feed-forward 4096 (paper, section 4), post-norm as in the published
      Large checkpoint's transformers port;
    * K = 16 and no layer drop: depth-scaled from 8 of 12, and what data2vec 2.0's large speech configuration has;
    * lr 2.67e-4: 5e-4 times 4 / 7.5, the large-to-base ratio of data2vec 2.0's speech configurations;
    * micro-batches of 237.5 s x 16 on one 80 GB GPU (an estimate), the same 63.3 minutes together.

    Returns:
        The configuration.
    """
    base = speech_base()
    return replace(
        base,
        model=replace(
            base.model,
            transformer=replace(base.model.transformer, dim=1024, depth=24, heads=16, ffn_dim=4096, layer_drop=0.0),
            target=replace(base.model.target, top_k=16),
        ),
        loader=replace(base.loader, batch_size=118, batch_seconds=237.5, accumulation=16),
        optim=replace(base.optim, lr=2.67e-4),
    )
