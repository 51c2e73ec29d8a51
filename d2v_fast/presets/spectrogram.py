"""Spectrograms: the recipe of EAT, which is data2vec 2.0, and tiny ones of our own."""

from __future__ import annotations

from d2v_fast.config import (
    CheckpointConfig,
    Config,
    EmaConfig,
    LogConfig,
    MonitorConfig,
    OptimConfig,
    PrecisionConfig,
)
from d2v_fast.data.config import LoaderConfig
from d2v_fast.masking.config import InverseBlockMask
from d2v_fast.modalities.spectrogram.config import SpectrogramEmbedding, SpectrogramInputs
from d2v_fast.models.config import (
    DecoderConfig,
    LossConfig,
    ModelConfig,
    TargetConfig,
    TeacherConfig,
    TransformerConfig,
)


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


def spectrogram2_base() -> Config:
    """EAT (Chen et al., IJCAI 2024, arXiv 2401.03497): 400,000 steps of 48 clips of AudioSet, each in 16 masked views.

    From the released `config/pretraining_AS2M.yaml` of cwx-worst-one/EAT, unless said:

    * 16 kHz, 128 mel bands of 10 ms frames, 1,024 frames in patches of 16 x 16: a grid of 64 x 8. Fixed sine-cosine
      positions, a class token; 12 post-norm blocks and no prenet; width 768, 12 heads, feed-forward 3072, eps 1e-6, no
      dropout.
    * Masks: inverse blocks, 80 %, blocks of 5 x 5, adjusted by 0.07: 102 of 512 patches are kept; 16 views.
    * Decoder: 6 convolutions of 3 x 3, 768 channels in 16 groups; noise 0.01, no input dropout.
    * Targets: K = 12, feed-forward outputs, instance norm on each, layer norm on their mean. Loss: squared error,
      summed over channels / sqrt(C).
    * Class token: `cls_loss: 1`, in our mean form 1 x 12 clips x 16 views = 192 (see `vision2_base`).
    * Teacher: 0.9998 to 0.99999 over 100,000 steps, the whole encoder.
    * Adam betas (0.9, 0.95), eps 1e-8, weight decay 0.05, clipping at 4, lr 5e-4, cosine to 0 after 53,333 steps of
      warm-up.
    * Batch: 12 x 4 GPUs = 48. Here 12 clips of 10.24 s x 4 micro-batches on one 80 GB GPU (an estimate).
    * Clips of 2 to 10.24 s (the shortest is ours); longer ones give a random window. Energies are normalised over each
      clip; the released code has one mean and deviation for all of AudioSet, and fills up shorter clips with silence.

    Returns:
        The configuration.
    """
    return Config(
        model=ModelConfig(
            embedding=SpectrogramEmbedding(bins=128),
            transformer=TransformerConfig(norm_eps=1e-6, dropout=0.0, attention_dropout=0.0),
            head=DecoderConfig(dim=768, layers=6, kernel=3, input_dropout=0.0),
            target=TargetConfig(top_k=12, final_norm=("layer",)),
            loss=LossConfig(class_token=1.0 * 12 * 16),
            teacher=TeacherConfig(averages="all"),
        ),
        mask=InverseBlockMask(block=5, views=16),
        inputs=SpectrogramInputs(min_seconds=2.0, max_seconds=10.24),
        # 122.88 s hold at most 61 clips of 2 s, so the seconds alone decide.
        loader=LoaderConfig(batch_size=61, batch_seconds=122.88, accumulation=4),
        optim=OptimConfig(betas=(0.9, 0.95), eps=1e-8, weight_decay=0.05, clip_norm=4.0, warmup=53_333 / 400_000),
        ema=EmaConfig(start=0.9998, end=0.99999, anneal_steps=100_000),
        precision=PrecisionConfig(autocast="auto"),
        monitor=MonitorConfig(warmup_steps=53_333, abort_std=0.0),
    )
