"""data2vec 2.0 on text: the two released recipes."""

from __future__ import annotations

from dataclasses import replace

from d2v_fast.config import Config, EmaConfig, MonitorConfig, OptimConfig, PrecisionConfig
from d2v_fast.data.config import LoaderConfig
from d2v_fast.masking.config import RandomMask
from d2v_fast.modalities.text.config import TextEmbedding, TextInputs
from d2v_fast.models.config import DecoderConfig, LossConfig, ModelConfig, TargetConfig


def text2_base() -> Config:
    """Base on text: 152,961,792 parameters, a million steps of 64 blocks of 512 tokens, each in 8 masked views.

    From fairseq's `config/v2/base_text_only_task.yaml`, unless said:

    * 50,265 tokens and 512 learned positions as in `text_base`; 12 post-norm blocks and no prenet, width 768, 12 heads,
      feed-forward 3072, eps 1e-5, dropout 0.1, attention dropout 0.1.
    * Masks: 48 % of the tokens, each on its own; 266 of 512 are kept; 8 views. The student does not see the others.
    * Decoder: 5 convolutions of 9 tokens, 768 channels, one group, no residual, then 768 -> 1536 -> 768; noise 0.01,
      input dropout 0.1.
    * Targets: K = 12, feed-forward outputs, instance norm. Loss: squared error, summed over channels (`loss_scale: 1`).
    * Teacher: 0.9999 to 0.99999 over 100,000 steps, without embeddings (`ema_encoder_only: true`). It sees the
      embeddings without dropout; the released one sees those of the student, dropout included.
    * Adam betas (0.9, 0.98), eps 1e-6, weight decay 0.01 on everything, clipping at 1, lr 2e-4, cosine to 0 after 4,000
      steps of warm-up.
    * 1,000,000 steps. Batch: 4 x 16 GPUs = 64 blocks of 512. Here 16 x 4 micro-batches on one 80 GB GPU (an estimate of
      what fits, not a measurement).
    * Monitors: judged after 5,000 steps; the run stops below a target deviation of 0.1 (`min_target_var`).

    Returns:
        The configuration.
    """
    return Config(
        model=ModelConfig(
            embedding=TextEmbedding(),
            head=DecoderConfig(dim=768, layers=5, kernel=9, groups=1, residual=False, projection_layers=2),
            target=TargetConfig(top_k=12),
            loss=LossConfig(scale=1.0),
        ),
        mask=RandomMask(views=8),
        inputs=TextInputs(),
        loader=LoaderConfig(batch_size=16, accumulation=4),
        optim=OptimConfig(lr=2e-4, clip_norm=1.0, warmup=4000 / 1_000_000),
        ema=EmaConfig(start=0.9999, end=0.99999, anneal_steps=100_000),
        precision=PrecisionConfig(autocast="auto"),
        monitor=MonitorConfig(warmup_steps=5000, abort_std=0.1),
        steps=1_000_000,
    )


def text2_large() -> Config:
    """Large on text: 600,000 steps of 64 blocks of 512 tokens, each in 8 masked views.

    From fairseq's `config/v2/large_text_only_task.yaml`; what is not named here is `text2_base`'s:

    * 24 blocks, width 1024, 16 heads, feed-forward 4096. The decoder keeps its 768 channels.
    * Masks: 50 % of the tokens.
    * Targets: K = 24, layer norm on each, instance norm on their mean.
    * lr 1e-4. Batch: 2 x 32 GPUs = 64. Here 8 x 8 micro-batches on one 80 GB GPU (an estimate).
    * A second configuration was released, of 1,000,000 steps with smooth-L1: `--steps 1000000 --model.loss.beta 4`.

    Returns:
        The configuration.
    """
    base = text2_base()
    return replace(
        base,
        model=replace(
            base.model,
            transformer=replace(base.model.transformer, dim=1024, depth=24, heads=16, ffn_dim=4096),
            target=TargetConfig(top_k=24, layer_norm=("layer",), final_norm=("instance",)),
        ),
        mask=RandomMask(ratio=0.5, views=8),
        loader=replace(base.loader, batch_size=8, accumulation=8),
        optim=replace(base.optim, lr=1e-4, warmup=4000 / 600_000),
        steps=600_000,
    )
