"""Text: the released Books + Wikipedia recipe, and a large model derived from it."""

from __future__ import annotations

from dataclasses import replace

from d2v_fast.config import Config, EmaConfig, MonitorConfig, OptimConfig, PrecisionConfig
from d2v_fast.data.config import LoaderConfig
from d2v_fast.masking.config import TokenMask
from d2v_fast.modalities.text.config import TextEmbedding, TextInputs
from d2v_fast.models.config import HeadConfig, LossConfig, ModelConfig, TargetConfig


def text_base() -> Config:
    """Data2vec Base on text: a million steps of 256 blocks of 512 tokens.

    From fairseq's `config/text/pretraining/base.yaml`, unless said:

    * 50,265 tokens (GPT-2's byte-level BPE with `<mask>`, the lineage of the released model), 512 learned positions
      counted from pad + 1; 12 post-norm blocks, width 768, 12 heads, feed-forward 3072, eps 1e-5, dropout 0.1,
      attention dropout 0.1, activation dropout 0, no layer drop.
    * Head: 768 -> 1536 -> 768 (`head_layers: 2`).
    * Targets: K = 10, feed-forward outputs, layer norm on each. Loss: smooth-L1 with beta 4, summed over channels
      (`loss_scale: 1`).
    * Masks: 35 % in spans of 4, all replaced by the mask token (30.6 % of 512 tokens after overlaps): the paper's "+
      wav2vec 2.0 masking" row. The paper's main row is BERT's: 15 %, of which a tenth is kept and a tenth random.
    * Teacher: 0.999 to 0.9999 over 300,000 steps (paper: 100,000), without embeddings (`ema_transformer_layers_only`).
      It sees the whole sequence, as in the paper; the released task hands it the labels, which are padding wherever
      nothing is masked.
    * Adam betas (0.9, 0.98), eps 1e-6, weight decay 0.01 on everything, clipping at 5, lr 2e-4, cosine from 0 to 0
      after 10,000 steps of warm-up (paper, main row: tri-stage 5 / 80 / 15 %).
    * 1,000,000 steps. Batch: 8,192 tokens x 16 GPUs = 256 blocks of 512. Here 128 x 2 micro-batches on one 80 GB GPU
      (an estimate of what fits, not a measurement).
    * Monitors (ours; the code has none for text): judged after the warm-up.

    Returns:
        The configuration.
    """
    return Config(
        model=ModelConfig(
            embedding=TextEmbedding(),
            head=HeadConfig(layers=2),
            target=TargetConfig(top_k=10, layer_norm=("layer",)),
            loss=LossConfig(beta=4.0, scale=1.0),
        ),
        mask=TokenMask(probability=0.35, length=4, keep=0.0, random=0.0),
        inputs=TextInputs(),
        loader=LoaderConfig(batch_size=128, accumulation=2),
        optim=OptimConfig(
            lr=2e-4,
            clip_norm=5.0,
            warmup=10_000 / 1_000_000,
        ),
        ema=EmaConfig(anneal_steps=300_000),
        precision=PrecisionConfig(autocast="auto"),
        monitor=MonitorConfig(warmup_steps=10_000),
        steps=1_000_000,
    )


def text_large() -> Config:
    """Data2vec Large on text: derived, since no data2vec 1.0 recipe of this size was released.

    Everything is `text_base`, but for

    * the model: 24 blocks, width 1024, 16 heads, feed-forward 4096 (paper, section 4);
    * K = 20: depth-scaled from 10 of 12;
    * lr 1e-4: half, as from the base to the large text configuration of data2vec 2.0;
    * micro-batches of 64 x 4 on one 80 GB GPU (an estimate), the same 256 blocks together.

    Returns:
        The configuration.
    """
    base = text_base()
    return replace(
        base,
        model=replace(
            base.model,
            transformer=replace(base.model.transformer, dim=1024, depth=24, heads=16, ffn_dim=4096),
            target=replace(base.model.target, top_k=20),
        ),
        loader=replace(base.loader, batch_size=64, accumulation=4),
        optim=replace(base.optim, lr=1e-4),
    )
