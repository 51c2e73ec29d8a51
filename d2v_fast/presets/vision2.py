"""data2vec 2.0 on pictures: the four released ImageNet recipes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from d2v_fast.config import Config, EmaConfig, MonitorConfig, OptimConfig, PrecisionConfig
from d2v_fast.data.config import LoaderConfig
from d2v_fast.masking.config import InverseBlockMask
from d2v_fast.modalities.vision.config import VisionEmbedding, VisionInputs
from d2v_fast.models.config import (
    DecoderConfig,
    LossConfig,
    ModelConfig,
    TargetConfig,
    TeacherConfig,
    TransformerConfig,
)


def vision2_base() -> Config:
    """ViT-B on 224 x 224 pictures: 375,300 steps of 256 pictures (75 epochs of ImageNet), each in 16 masked views.

    From fairseq's `config/v2/base_images_only_task.yaml`, unless said:

    * patches of 16, fixed sine-cosine positions, a class token; LayerNorm, then a prenet of 2 blocks and 10 shared ones
      (depth 12), post-norm; width 768, 12 heads, feed-forward 3072, eps 1e-6, no dropout.
    * Masks: inverse blocks, 80 %, blocks of 3 x 3, adjusted by 0.07: 39 of 196 patches are kept; 16 views.
    * Decoder: 6 convolutions of 3 x 3, 768 channels in 16 groups; noise 0.01, no input dropout.
    * Targets: K = 10 of the shared blocks, feed-forward outputs, instance norm on each, layer norm on their mean. Loss:
      squared error, summed over channels / sqrt(C).
    * Class token: `cls_loss: 0.01` is a factor on a sum over the masked views of one GPU's batch, and grows with both.
      Here the weight is that of the mean over the views: 0.01 x 16 pictures x 16 views = 2.56, whatever the batch is.
    * Teacher: 0.9998 to 0.99999 over 100,000 steps, the whole encoder (`ema_local_encoder: true`).
    * Adam betas (0.9, 0.95), eps 1e-8, weight decay 0.05, on vectors too (the released optimizer ignores that they were
      to be left out), clipping at 4, lr 1e-3, cosine to 0 after 50,040 steps of warm-up.
    * Pictures: one crop of 20 to 100 % of the area, aspect 3/4 to 4/3, flips, no colour jitter; ImageNet mean and
      deviation. All views are of the same crop.
    * Batch: 16 x 16 GPUs = 256. Here 64 x 4 micro-batches on one 80 GB GPU (an estimate of what fits, not a
      measurement: 64 x 16 views of 40 tokens are as many tokens as 208 whole pictures).
    * Monitors: judged after the warm-up (ours), and never stop the run (`min_target_var: 0`).

    Returns:
        The configuration.
    """
    return Config(
        model=ModelConfig(
            embedding=VisionEmbedding(positions="sincos"),
            transformer=TransformerConfig(prenet=2, norm_eps=1e-6, dropout=0.0, attention_dropout=0.0),
            head=DecoderConfig(dim=768, layers=6, kernel=3, input_dropout=0.0),
            target=TargetConfig(top_k=10, final_norm=("layer",)),
            loss=LossConfig(class_token=0.01 * 16 * 16),
            teacher=TeacherConfig(averages="all"),
        ),
        mask=InverseBlockMask(views=16),
        inputs=VisionInputs(crop_scale=(0.2, 1.0), jitter=0.0),
        loader=LoaderConfig(accumulation=4),
        optim=OptimConfig(
            lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.05, clip_norm=4.0, warmup=50_040 / 375_300
        ),
        ema=EmaConfig(start=0.9998, end=0.99999, anneal_steps=100_000),
        precision=PrecisionConfig(autocast="auto"),
        monitor=MonitorConfig(warmup_steps=50_040, abort_std=0.0),
        steps=375_300,
    )


def vision2_large() -> Config:
    """ViT-L: 375,300 steps of 128 pictures (37.5 epochs of ImageNet), each in 16 masked views.

    From fairseq's `config/v2/large_images_only_task.yaml`; what is not named here is `vision2_base`'s:

    * 24 blocks and no prenet, width 1024, 16 heads, feed-forward 4096; K = 18.
    * Masks: 75 %, adjusted by 0.1: 49 of 196 patches are kept. Decoder: 3 convolutions of 5 x 5, 1024 channels.
    * Class token: 0.01 x 8 pictures x 16 views = 1.28.
    * Teacher: to 0.99999 over 150,000 steps. lr 4e-4.
    * Batch: 8 x 16 GPUs = 128. Here 32 x 4 micro-batches on one 80 GB GPU (an estimate).

    Returns:
        The configuration.
    """
    base = vision2_base()
    return replace(
        base,
        model=replace(
            base.model,
            transformer=replace(base.model.transformer, dim=1024, depth=24, prenet=0, heads=16, ffn_dim=4096),
            head=DecoderConfig(dim=1024, layers=3, kernel=5, input_dropout=0.0),
            target=replace(base.model.target, top_k=18),
            loss=LossConfig(class_token=0.01 * 8 * 16),
        ),
        mask=InverseBlockMask(ratio=0.75, adjust=0.1, views=16),
        loader=replace(base.loader, batch_size=32),
        optim=replace(base.optim, lr=4e-4),
        ema=replace(base.ema, anneal_steps=150_000),
    )


def vision2_huge16() -> Config:
    """ViT-H with patches of 16: 375,300 steps of 128 pictures (37.5 epochs of ImageNet), each in 16 masked views.

    From fairseq's `config/v2/huge_images_only_task.yaml`; what is not named here is `vision2_large`'s:

    * 32 blocks, width 1280, 16 heads, feed-forward 5120; K = 24.
    * Teacher: to 0.99995 over 150,000 steps.
    * Micro-batches of 16 x 8 on one 80 GB GPU (an estimate).

    Returns:
        The configuration.
    """
    base = vision2_large()
    return replace(
        base,
        model=replace(
            base.model,
            transformer=replace(base.model.transformer, dim=1280, depth=32, ffn_dim=5120),
            target=replace(base.model.target, top_k=24),
        ),
        loader=replace(base.loader, batch_size=16, accumulation=8),
        ema=replace(base.ema, end=0.99995),
    )


def vision2_huge14() -> Config:
    """ViT-H with patches of 14: 500,000 steps of 256 pictures (100 epochs of ImageNet), each in 16 masked views.

    From fairseq's `config/v2/huge_images14_only_task.yaml`; what is not named here is `vision2_huge16`'s:

    * 16 x 16 patches of 14, of which 64 are kept.
    * Teacher: to 1 over 300,000 steps, and from there it stands still.
    * Class token: 0.01 x 8 pictures x 16 views = 1.28, as the batch of one GPU is the same.
    * Batch: 8 x 32 GPUs = 256. Here 16 x 16 micro-batches on one 80 GB GPU (an estimate).

    Returns:
        The configuration.
    """
    base = vision2_huge16()
    embedding: Any = base.model.embedding
    return replace(
        base,
        model=replace(base.model, embedding=replace(embedding, patch_size=14)),
        loader=replace(base.loader, accumulation=16),
        optim=replace(base.optim, warmup=50_040 / 500_000),
        ema=replace(base.ema, end=1.0, anneal_steps=300_000),
        steps=500_000,
    )
