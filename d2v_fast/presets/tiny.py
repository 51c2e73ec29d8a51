"""A tiny recipe for each modality: minutes on two CPU cores, for the demo, the tests and first steps.

The sizes are chosen for speed and the method is the published one; a docstring says where a number departs from
the base recipe and why. Nothing here is published; the numbers are tuned on the demo's data.
"""

from __future__ import annotations

from d2v_fast.config import CheckpointConfig, Config, EmaConfig, LogConfig, MonitorConfig, OptimConfig
from d2v_fast.data.config import LoaderConfig
from d2v_fast.masking.config import InverseBlockMask, SpanMask, TokenMask
from d2v_fast.modalities.speech.config import SpeechEmbedding, SpeechInputs
from d2v_fast.modalities.text.config import TextEmbedding, TextInputs
from d2v_fast.modalities.vision.config import VisionEmbedding, VisionInputs
from d2v_fast.models.config import HeadConfig, LossConfig, ModelConfig, TargetConfig, TeacherConfig, TransformerConfig


def vision_tiny() -> Config:
    """8 x 8 grey pictures (handwritten digits): 4 blocks of width 64 on 16 patches of 2 x 2.

    Departs from `vision_base`:

    * Fixed sine-cosine positions are added to the patches. With the recipe's relative bias a run of 1,500 steps came
      from a kNN accuracy of .30 to no more than .54 on the demo's digits; with these, 1,800 steps come to .87.
    * Targets are block outputs with instance norm alone, where the recipe has layer norms, and squared error.
    * 60 % of the patches are masked as in the recipe, but each on its own: 4 x 4 patches leave no room for blocks.
    * No layer scale, drop path or dropout, and the teacher follows faster (0.99 to 0.999): a run is short.
    * The whole picture is the crop, and nothing is flipped or jittered: 64 pixels leave no room for it.

    Returns:
        The configuration.
    """
    return Config(
        model=ModelConfig(
            embedding=VisionEmbedding(image_size=8, patch_size=2, channels=1, positions="sincos"),
            transformer=TransformerConfig(
                dim=64,
                depth=4,
                heads=4,
                ffn_dim=256,
                norm_first=True,
                norm_eps=1e-6,
                key_bias=False,
                dropout=0.0,
                attention_dropout=0.0,
            ),
            target=TargetConfig(top_k=3, feature="block"),
            teacher=TeacherConfig(averages="all"),
        ),
        mask=InverseBlockMask(ratio=0.6, block=1, adjust=0.0),
        inputs=VisionInputs(
            crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=0.0, jitter=0.0, mean=(0.3,), std=(0.35,)
        ),
        loader=LoaderConfig(batch_size=32),
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


def speech_tiny() -> Config:
    """16 kHz speech: four convolutions with the recipe's stride of 320 samples, 4 blocks of width 128.

    Departs from `speech_base`:

    * Convolutions of 64 to 128 channels with kernel = stride (but for the first), a fraction of the recipe's cost.
    * Two position convolutions of 19 frames in 8 groups; K = 3 of 4 (the recipe's 8 of 12).
    * Clips of 0.5 to 4 s, spans of 5 frames at 0.65: a word is about 25 frames long. With spans of 10 frames, the
      recipe's, a run of this length learned next to nothing.
    * Batches of 16 s, gradients clipped at 1, lr 1e-3, dropout 0.05, no layer drop; cosine, since a run is short.
    * The EMA's decay runs from 0.999 to 0.9999 as in the recipe, but within the run. With 0.99 to 0.999 the targets
      lost their rank within 400 steps and the features were worse than at the start.

    Returns:
        The configuration.
    """
    return Config(
        model=ModelConfig(
            embedding=SpeechEmbedding(
                conv_layers=((64, 10, 5), (64, 4, 4), (128, 4, 4), (128, 4, 4)),
                position_depth=2,
                position_groups=8,
            ),
            transformer=TransformerConfig(dim=128, depth=4, heads=4, ffn_dim=512, dropout=0.05, attention_dropout=0.05),
            target=TargetConfig(top_k=3),
        ),
        mask=SpanMask(length=5),
        inputs=SpeechInputs(min_seconds=0.5, max_seconds=4.0),
        loader=LoaderConfig(batch_size=32, batch_seconds=16.0),
        optim=OptimConfig(lr=1e-3, clip_norm=1.0, warmup=0.1, last_lr=0.01),
        ema=EmaConfig(anneal_steps=400),
        checkpoint=CheckpointConfig(every=200),
        log=LogConfig(every=10, validate_every=200),
        monitor=MonitorConfig(warmup_steps=300),
        steps=400,
    )


def text_tiny() -> Config:
    """Text as bytes: a vocabulary of 261, blocks of 64 bytes, 3 blocks of width 96.

    Departs from `text_base`:

    * Bytes (256, and 5 special tokens) instead of 50,265 word pieces: how letters follow each other is learned in
      minutes, how words do is not.
    * The teacher averages the embeddings too. Otherwise the student makes the position embeddings loud and the targets
      a function of the position, which is easy to predict and worth nothing.
    * K = 2 of 3 (the recipe's 10 of 12); single bytes are masked, a fifth of them; no dropout; pre-norm, which allows
      the high learning rate; loss scale 1 / sqrt(C), as for speech; the teacher follows faster.

    Returns:
        The configuration.
    """
    return Config(
        model=ModelConfig(
            embedding=TextEmbedding(vocab_size=261, max_length=64),
            transformer=TransformerConfig(
                dim=96, depth=3, heads=4, ffn_dim=384, norm_first=True, dropout=0.0, attention_dropout=0.0
            ),
            head=HeadConfig(layers=2),
            target=TargetConfig(top_k=2, layer_norm=("layer",)),
            loss=LossConfig(beta=4.0),
            teacher=TeacherConfig(averages="all"),
        ),
        mask=TokenMask(probability=0.2, keep=0.0, random=0.0),
        inputs=TextInputs(block_size=64),
        loader=LoaderConfig(batch_size=32),
        optim=OptimConfig(lr=3e-3, clip_norm=5.0, warmup=0.1, last_lr=0.01),
        ema=EmaConfig(start=0.996, end=0.999, anneal_steps=900),
        checkpoint=CheckpointConfig(every=300),
        log=LogConfig(every=10, validate_every=200),
        monitor=MonitorConfig(warmup_steps=300),
        steps=900,
    )
