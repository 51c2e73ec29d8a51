"""Vision: the published ImageNet recipes of the BEiT-based code (fairseq's own vision file is another, broken one)."""

from __future__ import annotations

from dataclasses import replace

from d2v_fast.config import Config, EmaConfig, MonitorConfig, OptimConfig, PrecisionConfig
from d2v_fast.data.config import LoaderConfig
from d2v_fast.masking.config import BlockMask
from d2v_fast.modalities.vision.config import VisionEmbedding, VisionInputs
from d2v_fast.models.config import LossConfig, ModelConfig, TargetConfig, TeacherConfig, TransformerConfig


def vision_base() -> Config:
    """ViT-B on 224 x 224 pictures: 500,000 steps of 2,048 pictures, which is 800 epochs of ImageNet-1K.

    From the README's command, the parser's defaults and the code of `data2vec_vision`, unless said:

    * patches of 16, class token, shared relative position bias; 12 pre-norm blocks, width 768, 12 heads, feed-forward
      3072, LayerNorm eps 1e-6, no key bias, layer scale 1e-4, dropout 0, attention dropout 0.05, drop path 0.25
      (paper: 0.2).
    * Targets: K = 6 (layers 6 to 11), block outputs (the paper prefers feed-forward outputs "generally"), layer norm
      on each, layer norm on their mean.
    * Loss: smooth-L1 with beta 2, the mean over elements. Ours is the sum over channels, so the scale is 1 / 768.
    * Masks: blocks of 16 patches or more, aspect 0.3 to 1 / 0.3, up to 120 of 196 patches.
    * Teacher: 0.9998 throughout (`--ema_start_at 0`), the whole encoder, in float32.
    * AdamW betas (0.9, 0.999), eps 1e-8, weight decay 0.05 but not on vectors, clipping at 3.0, lr 2e-3, cosine from 0
      to 1e-5 after 10 of 800 epochs of warm-up (paper: 40).
    * Steps: 1,281,167 pictures // 2,048 = 625 in an epoch (the code drops the incomplete batch), x 800.
    * Pictures: crops of 8 to 100 % of the area, aspect 3/4 to 4/3, flips, colour jitter 0.4, ImageNet mean and
      deviation.
    * Batch: 128 x 16 GPUs = 2,048. Here 256 x 8 micro-batches on one 80 GB GPU (an estimate of what fits, not a
      measurement).
    * Monitors (ours; the code has none): judged after the warm-up.

    Returns:
        The configuration.
    """
    return Config(
        model=ModelConfig(
            embedding=VisionEmbedding(),
            transformer=TransformerConfig(
                norm_first=True,
                norm_eps=1e-6,
                key_bias=False,
                dropout=0.0,
                attention_dropout=0.05,
                drop_path=0.25,
                layer_scale=1e-4,
            ),
            target=TargetConfig(top_k=6, feature="block", layer_norm=("layer",), final_norm=("layer",)),
            loss=LossConfig(beta=2.0, scale=1 / 768),
            teacher=TeacherConfig(averages="all"),
        ),
        mask=BlockMask(),
        inputs=VisionInputs(),
        loader=LoaderConfig(batch_size=256, accumulation=8),
        optim=OptimConfig(
            lr=2e-3,
            betas=(0.9, 0.999),
            eps=1e-8,
            weight_decay=0.05,
            decay_vectors=False,
            clip_norm=3.0,
            warmup=10 / 800,
            last_lr=1e-5 / 2e-3,
        ),
        ema=EmaConfig(start=0.9998, end=0.9998, anneal_steps=0),
        precision=PrecisionConfig(autocast="auto", teacher_float32=True),
        monitor=MonitorConfig(warmup_steps=6250),
        steps=500_000,
    )


def vision_large() -> Config:
    """ViT-L, the first of its two published stages: 249,600 steps of 4,096 pictures, 800 epochs of ImageNet-1K.

    From the README's ViT-L command; what is not named here is `vision_base`'s:

    * 24 blocks, width 1024, 16 heads, feed-forward 4096; layer scale 1e-5, attention dropout 0.15, drop path 0.2.
    * K = 6 (layers 18 to 23); loss scale 1 / 1024, which is the mean over elements at this width.
    * lr 1e-3, warm-up 80 of 800 epochs; batch 64 x 64 GPUs = 4,096 (paper: 8,192), here 128 x 32 micro-batches on one
      80 GB GPU (an estimate). 1,281,167 // 4,096 = 312 steps in an epoch, x 800.
    * The second stage starts student and teacher from the first stage's student, with a teacher decay of 0.9999 and 40
      of another 800 epochs of warm-up: `--init-from RUN --ema.start 0.9999 --ema.end 0.9999 --optim.warmup 0.05`.

    Returns:
        The configuration.
    """
    base = vision_base()
    return replace(
        base,
        model=replace(
            base.model,
            transformer=replace(
                base.model.transformer,
                dim=1024,
                depth=24,
                heads=16,
                ffn_dim=4096,
                attention_dropout=0.15,
                drop_path=0.2,
                layer_scale=1e-5,
            ),
            loss=replace(base.model.loss, scale=1 / 1024),
        ),
        loader=replace(base.loader, batch_size=128, accumulation=32),
        optim=replace(base.optim, lr=1e-3, warmup=80 / 800, last_lr=1e-5 / 1e-3),
        monitor=replace(base.monitor, warmup_steps=24_960),
        steps=249_600,
    )
